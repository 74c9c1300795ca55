//! Nothing secret in logs, errors and `Debug`: neither IDs nor values nor the password of the server.
use std::{fmt::Write as _, sync::Arc, time::Duration};

use cloakroom::{Session, SessionLayer, SessionStore};

use crate::support::{
    log::Log,
    redis_server::RedisServer,
    web::{id, send, start},
};

#[test]
fn no_secret_is_logged_or_shown_with_redis_and_its_password() {
    let server = RedisServer::start_with(&["--requirepass", "canary-password"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut secrets = vec!["canary-password".to_owned(), "canary-value".to_owned()];
    let mut shown = String::new();
    let (log, recording) = Log::record();
    runtime.block_on(async {
        let url = server.url().replace("redis://", "redis://:canary-password@");
        let settings = cloakroom::RedisCache::builder(&url).timeout(Duration::from_secs(10));
        write!(shown, "{settings:?} {settings:#?}").unwrap();
        let cache = Arc::new(settings.build().await.unwrap());
        let wrong = server.url().replace("redis://", "redis://:canary-password-not@");
        let refused = cloakroom::RedisCache::connect(&wrong).await.err().unwrap();
        write!(shown, "{cache:?} {cache:#?} {refused} {refused:?} {refused:#?}").unwrap();
        let source = std::error::Error::source(&refused).map(|source| format!("{source} {source:?}"));
        write!(shown, "{source:?}").unwrap();
        let store = SessionStore::new(cache.clone()).deadline(Duration::from_secs(10));
        let layer = SessionLayer::new(store.clone());
        for status in [200, 500] {
            let mut cookie = start(&layer, "alice").await;
            for does in 0..4 {
                secrets.push(id(&cookie).to_owned());
                let session = store.load(id(&cookie)).await.unwrap();
                secrets.extend(session.as_ref().and_then(Session::key).map(|key| key.to_string()));
                write!(shown, "{session:?} {session:#?}").unwrap();
                let reply = send(&layer, Some(&cookie), move |session| async move {
                    session.set("data", "canary-value").unwrap();
                    let _ = session.get::<u64>("data");
                    match does {
                        1 => session.renew(),
                        2 => drop(session.detach().commit().await),
                        3 => session.destroy(),
                        _ => {}
                    }
                    status
                })
                .await;
                write!(shown, "{reply:?}").unwrap();
                cookie = reply.cookie().filter(|cookie| !cookie.ends_with('=')).unwrap_or(cookie);
            }
        }
        // Of another type, and a server that says no: Redis repeats arguments in its errors.
        let id = store.save(&Session::new()).await.unwrap();
        secrets.extend([id.as_ref().to_owned(), id.key().to_string()]);
        let key = format!("cloakroom:{}", id.key());
        for command in [&["DEL", &key][..], &["LPUSH", &key, "canary-value"]] {
            assert!(authenticated(&server, command), "{command:?}");
        }
        let error = store.load(&id).await;
        write!(shown, "{error:?}").unwrap();
        let reply = send(&layer, Some(&format!("__Host-id={}", id.as_ref())), |_| async { 200 }).await;
        write!(shown, "{reply:?}").unwrap();
    });
    drop((server, recording));
    let log = log.text();
    assert!(log.contains("session created") && log.contains("session renewed") && log.contains("session destroyed"));
    for secret in &secrets {
        assert!(!log.contains(&**secret), "{secret} was logged");
        // A `SessionKey` may be shown: it is no ticket.
        assert!(secret.len() == 43 || !shown.contains(&**secret), "{secret} was shown");
    }
}

/// A command on a connection that knows the password.
fn authenticated(server: &RedisServer, command: &[&str]) -> bool {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    let text = |args: &[&str]| {
        let parts: String = args.iter().map(|arg| format!("${}\r\n{arg}\r\n", arg.len())).collect();
        format!("*{}\r\n{parts}", args.len())
    };
    let request = text(&["AUTH", "canary-password"]) + &text(command) + &text(&["QUIT"]);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.starts_with("+OK\r\n:1\r\n")
}
