//! A way to a server on which answers can be held back, and then arrive all at once.
use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

const NOTHING: u8 = 0;
const MESSAGES: u8 = 1;
const ALL: u8 = 2;

#[derive(Clone, Debug)]
pub struct HoldingProxy {
    port: u16,
    holds: Arc<AtomicU8>,
    released: Arc<Notify>,
}

impl HoldingProxy {
    pub async fn before(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("its number").port();
        let proxy = Self { port, holds: Arc::default(), released: Arc::default() };
        let this = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(this.clone().pass(client, server));
            }
        });
        proxy
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn hold(&self) {
        self.holds.store(ALL, Ordering::SeqCst);
    }

    /// From the next message on that answers no question, on the connection where it comes.
    pub fn hold_messages(&self) {
        self.holds.store(MESSAGES, Ordering::SeqCst);
    }

    pub fn release(&self) {
        self.holds.store(NOTHING, Ordering::SeqCst);
        self.released.notify_waiters();
    }

    async fn pass(self, mut client: TcpStream, server: u16) {
        let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
        let (mut asked, mut answered) = (vec![0; 65536], vec![0; 65536]);
        let mut held = Vec::new();
        loop {
            let released = self.released.notified();
            tokio::select! {
                read = client.read(&mut asked) => match read {
                    Ok(count @ 1..) if server.write_all(&asked[..count]).await.is_ok() => {}
                    _ => return,
                },
                read = server.read(&mut answered) => match read {
                    Ok(count @ 1..) => held.extend_from_slice(&answered[..count]),
                    _ => return,
                },
                () = released => {}
            }
            let passes = match self.holds.load(Ordering::SeqCst) {
                NOTHING => true,
                MESSAGES => !held.starts_with(b">"),
                _ => false,
            };
            if passes && client.write_all(&std::mem::take(&mut held)).await.is_err() {
                return;
            }
        }
    }
}
