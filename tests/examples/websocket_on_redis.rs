//! A WebSocket ends with its session, on whichever machine that was ended.
use std::{
    env,
    process::Stdio,
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, Request, StatusCode, header};
use cloakroom::{Session, SessionStore};
use futures_util::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest, protocol::frame::coding::CloseCode},
};

use crate::{programs::websocket, support::redis_server};

/// How long to wait for what has to happen sooner or later.
const PATIENCE: Duration = Duration::from_secs(30);

/// The example, in a process of its own.
struct Machine {
    _child: Child,
    address: String,
}

const VARIABLE: &str = "CLOAKROOM_STREAMS_REDIS";
const LISTENING: &str = "listening: ";

impl Machine {
    async fn start(redis_url: &str) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "websocket_on_redis::machine", "--nocapture"]).env(VARIABLE, redis_url);
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("this program again");
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        loop {
            let line = output.next_line().await.unwrap().expect("it listens");
            if let Some((_, address)) = line.split_once(LISTENING) {
                return Self { _child: child, address: address.to_owned() };
            }
        }
    }

    async fn send(&self, request: axum::http::request::Builder, body: &str) -> (StatusCode, HeaderMap) {
        let stream = TokioIo::new(TcpStream::connect(&self.address).await.unwrap());
        let (mut client, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = request.header(header::HOST, &self.address).body(body.to_owned()).unwrap();
        let (head, body) = client.send_request(request).await.unwrap().into_parts();
        body.collect().await.unwrap();
        (head.status, head.headers)
    }

    async fn post(&self, path: &str, cookie: Option<&str>, form: &str) -> (StatusCode, HeaderMap) {
        let mut request = Request::post(path).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(cookie) = cookie {
            request = request.header(header::COOKIE, cookie);
        }
        self.send(request, form).await
    }

    /// The cookie of a new login.
    async fn sign_in(&self, name: &str) -> String {
        let (status, headers) = self.post("/sign-in", None, &format!("name={name}")).await;
        assert_eq!(status, StatusCode::SEE_OTHER);
        headers[header::SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned()
    }

    async fn sign_out_everywhere(&self, cookie: &str) {
        let (status, _) = self.post("/sign-out-everywhere", Some(cookie), "").await;
        assert_eq!(status, StatusCode::SEE_OTHER);
    }

    async fn open(&self, cookie: Option<&str>, origin: Option<&str>) -> Result<Socket, StatusCode> {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        let mut request = format!("ws://{}/socket", self.address).into_client_request().unwrap();
        for (name, value) in [(header::COOKIE, cookie), (header::ORIGIN, origin)] {
            if let Some(value) = value {
                request.headers_mut().insert(name, value.parse().unwrap());
            }
        }
        match client_async(request, stream).await {
            Ok((stream, _)) => Ok(Socket(stream)),
            Err(tungstenite::Error::Http(response)) => Err(response.status()),
            Err(error) => panic!("{error}"),
        }
    }
}

struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    async fn say(&mut self, text: &str) -> String {
        self.0.send(Message::text(text)).await.unwrap();
        match self.next().await {
            Message::Text(answer) => answer.to_string(),
            other => panic!("{other:?}"),
        }
    }

    async fn next(&mut self) -> Message {
        timeout(PATIENCE, self.0.next()).await.expect("in time").expect("open").unwrap()
    }

    /// Waits until the other side closes it.
    async fn closed(&mut self, code: u16) {
        match self.next().await {
            Message::Close(Some(frame)) => assert_eq!(frame.code, CloseCode::from(code)),
            other => panic!("{other:?}"),
        }
    }
}

/// The other process of the test below.
#[tokio::test]
async fn machine() {
    let Ok(redis_url) = env::var(VARIABLE) else { return };
    let app = websocket::app(&redis_url).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{LISTENING}{}", listener.local_addr().unwrap());
    axum::serve(listener, app).await.unwrap();
}

#[tokio::test]
async fn log_out_everywhere_on_one_machine_closes_a_websocket_on_another_within_a_second() {
    let redis = redis_server::RedisServer::start();
    let url = redis.url();
    let (here, there) = tokio::join!(Machine::start(&url), Machine::start(&url));
    let mut times = Vec::new();
    for _ in 0..5 {
        let (desk, phone, bob) = tokio::join!(here.sign_in("alice"), there.sign_in("alice"), there.sign_in("bob"));
        let mut socket = here.open(Some(&desk), None).await.unwrap();
        let mut of_bob = here.open(Some(&bob), None).await.unwrap();
        assert_eq!(socket.say("hello").await, "1: hello");
        assert_eq!(socket.say("again").await, "2: again");

        there.sign_out_everywhere(&phone).await;
        let start = Instant::now();
        socket.closed(websocket::SIGNED_OUT).await;
        times.push(start.elapsed());
        assert_eq!(of_bob.say("still here").await, "1: still here");
        assert_eq!(here.open(Some(&desk), None).await.err(), Some(StatusCode::UNAUTHORIZED));
    }
    times.sort();
    eprintln!("closed after {times:?}");
    // What a busy machine adds is no property of the crate: the best of five counts.
    assert!(times.first().is_some_and(|time| *time < Duration::from_secs(1)), "{times:?}");
}

#[tokio::test]
async fn a_message_after_the_logout_does_nothing() {
    let redis = redis_server::RedisServer::start();
    let machine = Machine::start(&redis.url()).await;
    let cookie = machine.sign_in("alice").await;
    let mut socket = machine.open(Some(&cookie), None).await.unwrap();
    let store = SessionStore::new(cloakroom::RedisCache::connect(&redis.url()).await.unwrap());
    assert_eq!(store.revoke_all("alice").await.unwrap(), 1);
    // Whichever is first, the look or the message: there is no answer but the close.
    let _ = socket.0.send(Message::text("too late")).await;
    socket.closed(websocket::SIGNED_OUT).await;
    assert!(store.sessions_of("alice").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_login_on_one_machine_tells_a_websocket_on_another_to_connect_again() {
    let redis = redis_server::RedisServer::start();
    let url = redis.url();
    let (here, there) = tokio::join!(Machine::start(&url), Machine::start(&url));
    let cookie = here.sign_in("alice").await;
    let mut socket = here.open(Some(&cookie), None).await.unwrap();
    let (_, headers) = there.post("/sign-in", Some(&cookie), "name=alice").await;
    let renewed = headers[header::SET_COOKIE].to_str().unwrap().split(';').next().unwrap();
    socket.closed(websocket::RENEWED).await;
    assert_eq!(here.open(Some(&cookie), None).await.err(), Some(StatusCode::UNAUTHORIZED));
    assert_eq!(here.open(Some(renewed), None).await.unwrap().say("hello").await, "1: hello");
}

#[tokio::test]
async fn pages_of_other_origins_and_visitors_open_no_websocket() {
    let redis = redis_server::RedisServer::start();
    let machine = Machine::start(&redis.url()).await;
    let cookie = machine.sign_in("alice").await;
    assert_eq!(machine.open(None, None).await.err(), Some(StatusCode::UNAUTHORIZED));
    for origin in ["http://evil.example", "null", "http://127.0.0.1"] {
        assert_eq!(machine.open(Some(&cookie), Some(origin)).await.err(), Some(StatusCode::FORBIDDEN), "{origin}");
    }
    let own = format!("http://{}", machine.address);
    assert_eq!(machine.open(Some(&cookie), Some(&own)).await.unwrap().say("hello").await, "1: hello");
}

/// What makes a short `ended_interval` cheap: a look at a session that did not change is answered by the near cache.
#[tokio::test]
async fn looks_that_a_near_cache_answers_are_no_commands() {
    let redis = redis_server::RedisServer::start();
    let mut reads = Vec::new();
    for near in [0, 1 << 20] {
        let cache =
            cloakroom::RedisCache::builder(redis.url()).near_cache(near).timeout(PATIENCE).build().await.unwrap();
        let store = SessionStore::new(cache).ended_interval(Duration::from_millis(5)).deadline(PATIENCE);
        let mut sessions = Vec::new();
        for _ in 0..10 {
            let id = store.save(&Session::new()).await.unwrap();
            sessions.push(store.load(&id).await.unwrap().unwrap());
        }
        redis.reset_calls();
        let looking = futures_util::future::join_all(sessions.iter().map(Session::ended));
        assert!(timeout(Duration::from_millis(500), looking).await.is_err(), "all of them live");
        reads.push(redis.calls().get("getrange").copied().unwrap_or(0));
    }
    assert!(reads.first() > Some(&40) && reads.last() < Some(&20), "without and with a near cache: {reads:?}");
}
