//! A way to a server on which replies get lost.
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Passes everything on; once armed, cuts the connection in place of the next reply.
#[derive(Clone, Debug)]
pub struct CuttingProxy {
    port: u16,
    armed: Arc<AtomicBool>,
    cut: Arc<AtomicU64>,
}

impl CuttingProxy {
    pub async fn before(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("its number").port();
        let proxy = Self { port, armed: Arc::default(), cut: Arc::default() };
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

    /// Whatever the server answers next is lost, and the connection with it.
    pub fn lose_next_reply(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    /// How many replies were lost.
    pub fn lost(&self) -> u64 {
        self.cut.load(Ordering::SeqCst)
    }

    async fn pass(self, mut client: TcpStream, server: u16) {
        let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
        let (mut asked, mut answered) = (vec![0; 65536], vec![0; 65536]);
        loop {
            tokio::select! {
                read = client.read(&mut asked) => match read {
                    Ok(count @ 1..) if server.write_all(&asked[..count]).await.is_ok() => {}
                    _ => return,
                },
                read = server.read(&mut answered) => match read {
                    // The server has answered, so that it has done what it was asked.
                    Ok(1..) if self.armed.swap(false, Ordering::SeqCst) => {
                        self.cut.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    Ok(count @ 1..) if client.write_all(&answered[..count]).await.is_ok() => {}
                    _ => return,
                },
            }
        }
    }
}
