//! A way to a server that can be made bad in many ways.
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    time::sleep,
};

#[derive(Clone, Debug, PartialEq)]
pub enum Mode {
    Pass,
    /// Everything takes this long, there and back.
    Delay(Duration),
    /// One byte of an answer a second.
    Trickle,
    /// Answers never arrive.
    Swallow,
    /// Nothing arrives, neither here nor there, and on this connection nothing will again.
    Drop,
    /// The connection is cut in place of each answer: what was asked has been done.
    Cut,
    /// The same for one answer, and then nothing more.
    CutOnce,
    /// This is the answer, whatever the server says.
    Answer(Vec<u8>),
    /// The server says that it is older than it is.
    Old,
    /// The last answer that looks like a session is the answer to everything that has one.
    Replay,
}

#[derive(Clone)]
pub struct Proxy {
    port: u16,
    /// The port of the server behind it.
    server: Arc<Mutex<u16>>,
    mode: Arc<Mutex<Mode>>,
    seen: Arc<Mutex<Vec<u8>>>,
    connections: Arc<Mutex<u64>>,
    answers: Arc<Mutex<u64>>,
}

impl Proxy {
    pub async fn before(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("its number").port();
        let mode = Arc::new(Mutex::new(Mode::Pass));
        let server = Arc::new(Mutex::new(server));
        let proxy =
            Self { port, server, mode, seen: Arc::default(), connections: Arc::default(), answers: Arc::default() };
        let this = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                *this.connections.lock().unwrap() += 1;
                let server = *this.server.lock().unwrap();
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { continue };
                let (client, server) = (client.into_split(), server.into_split());
                tokio::spawn(this.clone().ask(client.0, server.1));
                tokio::spawn(this.clone().answer(server.0, client.1));
            }
        });
        proxy
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Connections that are made from now on go to another server.
    pub fn lead_to(&self, server: u16) {
        *self.server.lock().unwrap() = server;
    }

    pub fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    /// How many connections there were.
    pub fn connections(&self) -> u64 {
        *self.connections.lock().unwrap()
    }

    /// How often the server said something.
    pub fn answers(&self) -> u64 {
        *self.answers.lock().unwrap()
    }

    pub fn mode(&self) -> Mode {
        self.mode.lock().unwrap().clone()
    }

    async fn ask(self, mut client: OwnedReadHalf, mut server: OwnedWriteHalf) {
        let mut buffer = vec![0; 65536];
        let mut dead = false;
        while let Ok(count @ 1..) = client.read(&mut buffer).await {
            let mode = self.mode();
            dead |= mode == Mode::Drop;
            if dead {
                continue;
            }
            if let Mode::Delay(time) = mode {
                sleep(time).await;
            }
            if server.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    }

    async fn answer(self, mut server: OwnedReadHalf, mut client: OwnedWriteHalf) {
        let mut buffer = vec![0; 65536];
        let mut dead = false;
        while let Ok(count @ 1..) = server.read(&mut buffer).await {
            let answer = &buffer[..count];
            *self.answers.lock().unwrap() += 1;
            let mode = self.mode();
            dead |= mode == Mode::Drop;
            let sent = match mode {
                _ if dead => Ok(()),
                Mode::Pass => {
                    if answer.windows(4).any(|part| part == b"\"v\":") {
                        *self.seen.lock().unwrap() = answer.to_vec();
                    }
                    client.write_all(answer).await
                }
                Mode::Delay(time) => {
                    sleep(time).await;
                    client.write_all(answer).await
                }
                Mode::Trickle => {
                    let mut sent = Ok(());
                    for byte in answer {
                        sent = client.write_all(&[*byte]).await;
                        sleep(Duration::from_secs(1)).await;
                        if sent.is_err() || self.mode() != Mode::Trickle {
                            break;
                        }
                    }
                    sent
                }
                Mode::Swallow | Mode::Drop => Ok(()),
                Mode::Cut => return,
                Mode::CutOnce => {
                    self.set(Mode::Pass);
                    return;
                }
                Mode::Old => {
                    let mut answer = answer.to_vec();
                    let name = b"redis_version:";
                    if let Some(at) = answer.windows(name.len()).position(|part| part == name) {
                        answer[at + name.len()] = b'0';
                    }
                    client.write_all(&answer).await
                }
                Mode::Answer(bytes) => client.write_all(&bytes).await,
                Mode::Replay => {
                    let seen = self.seen.lock().unwrap().clone();
                    client.write_all(if answer.starts_with(b"$") { &seen } else { answer }).await
                }
            };
            if sent.is_err() {
                return;
            }
        }
    }
}
