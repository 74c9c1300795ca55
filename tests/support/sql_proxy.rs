//! A way to a server that loses answers.
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    Pass,
    /// The next answer to a request with these bytes in it is lost, and the connection cut: what was asked was done.
    CutAnswer(&'static [u8]),
    /// The same, and from then on `Gone`.
    CutAnswerForGood(&'static [u8]),
    /// No new connection lasts.
    Gone,
}

#[derive(Clone)]
pub struct Proxy {
    port: u16,
    mode: Arc<Mutex<Mode>>,
    cuts: Arc<AtomicU64>,
}

impl Proxy {
    pub async fn before(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("its number").port();
        let proxy = Self { port, mode: Arc::new(Mutex::new(Mode::Pass)), cuts: Arc::default() };
        let this = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(this.clone().pass(client, server));
            }
        });
        proxy
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    /// How many answers were lost.
    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::SeqCst)
    }

    async fn pass(self, mut client: TcpStream, server: u16) {
        if *self.mode.lock().unwrap() == Mode::Gone {
            return;
        }
        let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
        let (mut asked, mut answered) = (vec![0; 65536], vec![0; 65536]);
        let (mut cut, mut next) = (false, Mode::Pass);
        loop {
            tokio::select! {
                read = client.read(&mut asked) => match read {
                    Ok(count @ 1..) => {
                        let request = &asked[..count];
                        let mode = *self.mode.lock().unwrap();
                        if let Mode::CutAnswer(part) | Mode::CutAnswerForGood(part) = mode {
                            next = if matches!(mode, Mode::CutAnswer(_)) { Mode::Pass } else { Mode::Gone };
                            cut = request.windows(part.len()).any(|there| there == part);
                        }
                        if server.write_all(request).await.is_err() {
                            return;
                        }
                    }
                    _ => return,
                },
                read = server.read(&mut answered) => match read {
                    Ok(_) if cut => {
                        self.set(next);
                        self.cuts.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    Ok(count @ 1..) if client.write_all(&answered[..count]).await.is_ok() => {}
                    _ => return,
                },
            }
        }
    }
}
