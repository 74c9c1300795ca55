//! Settings, permissions, and what a start finds: no server, one that loads, one that speaks something else.
use super::*;

#[tokio::test]
async fn settings_at_their_extremes_work_or_are_refused() {
    let server = RedisServer::start();
    let builder = || RedisCache::builder(server.url());
    for timeout in [Duration::ZERO, Duration::from_nanos(1)] {
        assert_eq!(builder().timeout(timeout).build_lazy().unwrap_err().kind(), CacheErrorKind::Unsupported);
    }
    assert_eq!(builder().max_entry_bytes(0).build_lazy().unwrap_err().kind(), CacheErrorKind::Unsupported);
    let shortest = builder().timeout(Duration::from_millis(1)).build_lazy().unwrap();
    let _ = shortest.get("k").await;
    for builder in [
        builder().timeout(Duration::MAX),
        builder().timeout(Duration::MAX).fail_fast(false).near_cache(1),
        builder().max_entry_bytes(usize::MAX).near_cache(usize::MAX),
        builder().max_entry_bytes(1),
    ] {
        let cache = builder.build().await.unwrap();
        let key = format!("{cache:?}");
        cache
            .put(&key, bytes("v"), Expiry { idle: Duration::MAX, end: SystemTime::now() + 1000 * HOUR })
            .await
            .unwrap();
        assert_eq!(value(&cache, &key).await, Some(bytes("v")));
        assert!(cache.get_and_touch(&key, Duration::MAX).await.unwrap().is_some());
        assert!(cache.get_and_touch(&key, Duration::ZERO).await.unwrap().is_some());
        cache.list_add("list", "m", SystemTime::now() + Duration::from_secs(1 << 40)).await.unwrap();
        assert_eq!(cache.list_page("list", None, usize::MAX).await.unwrap().len(), 1);
        let entry = cache.get(&key).await.unwrap().unwrap();
        assert_eq!(cache.delete(&key, entry.version).await.unwrap(), Deleted::Done);
    }
    for builder in [builder().database(u16::MAX), builder().username("").password("")] {
        builder.build().await.unwrap_err();
    }
}

#[tokio::test]
async fn a_missing_permission_is_named_at_the_start_with_its_remedy() {
    let (server, _) = start().await;
    let user = |permitted: &str| {
        let rule = format!("ACL SETUSER sessions reset on >pw ~cloakroom:* resetchannels -@all {permitted}");
        let rule: Vec<_> = rule.split_whitespace().collect();
        assert_eq!(server.command(&rule), Reply::Simple("OK".to_owned()));
    };
    let url = format!("redis://sessions:pw@127.0.0.1:{}", server.port());
    for missing in ["+set", "+evalsha", "+eval", "+del", "+pexpire", "+zadd", "+zcount"] {
        user(&PERMITTED.split_whitespace().filter(|part| *part != missing).collect::<Vec<_>>().join(" "));
        let error = RedisCache::connect(&url).await.unwrap_err();
        assert_eq!(error.kind(), CacheErrorKind::Refused, "{missing}: {error:?}");
        assert!(format!("{error:?}").contains(missing), "{missing}: {error:?}");
        server.command(&["SCRIPT", "FLUSH"]);
    }
    // Other keys than those that are asked for here may be permitted.
    user(&PERMITTED.replace("cloakroom", "other"));
    server.command(&["ACL", "SETUSER", "sessions", "resetkeys", "~other:*"]);
    RedisCache::connect(&url).await.unwrap();
}

#[tokio::test]
async fn switched_off_scripts_are_named_at_the_start_with_the_remedy() {
    let server = RedisServer::start_with(&["--rename-command", "EVAL", "", "--rename-command", "EVALSHA", ""]);
    let error = RedisCache::connect(server.url()).await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Unsupported, "{error:?}");
    assert!(format!("{error:?}").contains("scripts are switched off"), "{error:?}");
}

#[tokio::test]
async fn scripts_that_are_refused_in_other_words_are_named_with_the_remedy() {
    for refusal in ["-ERR Lua scripting is not available canary", "-ERR Could not find scripting engine 'lua' canary"] {
        let error = RedisCache::connect(answering_server(0, refusal).await).await.unwrap_err();
        assert_eq!(error.kind(), CacheErrorKind::Unsupported, "{error:?}");
        let text = format!("{error:?}");
        assert!(text.contains("scripts are switched off") && !text.contains("canary"), "{text}");
    }
}

/// Servers that lack what the near cache needs.
#[tokio::test]
async fn without_the_newer_protocol_or_tracking_all_but_the_near_cache_works() {
    for command in ["HELLO", "CLIENT"] {
        let server = RedisServer::start_with(&["--rename-command", command, ""]);
        let builder = RedisCache::builder(server.url()).timeout(Duration::from_secs(10));
        let cache = builder.clone().build().await.unwrap();
        let version = cache.put("k", bytes("v"), hour()).await.unwrap().unwrap();
        let version = cache.put_over("k", version, bytes("w"), hour()).await.unwrap().unwrap();
        assert_eq!(value(&cache, "k").await, Some(bytes("w")));
        assert!(cache.touch("k").await.unwrap());
        assert!(cache.get_and_touch("k", Duration::ZERO).await.unwrap().is_some());
        assert_eq!(cache.delete("k", version).await.unwrap(), Deleted::Done);
        assert_eq!(cache.list_add("list", "m", SystemTime::now() + HOUR).await.unwrap(), 1);
        assert_eq!(cache.list_page("list", None, 10).await.unwrap().len(), 1);
        let builder = builder.near_cache(1 << 20);
        let lazy = builder.clone().build_lazy().unwrap();
        for error in [builder.build().await.unwrap_err(), lazy.get("k").await.unwrap_err()] {
            assert_eq!(error.kind(), CacheErrorKind::Unsupported, "{command}: {error:?}");
            let text = format!("{error:?}");
            assert!(text.contains("near_cache") && text.contains("CLIENT TRACKING"), "{command}: {text}");
        }
    }
}

#[tokio::test]
async fn without_a_server_connecting_fails_soon() {
    let server = RedisServer::reserve();
    let began = Instant::now();
    let error = RedisCache::connect(server.url()).await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Unavailable, "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    // Where, and what the operating system said.
    let text = format!("{error:?}");
    assert!(text.contains(&format!("127.0.0.1:{}", server.port())) && text.contains("os error"), "{text}");
}

#[tokio::test]
async fn a_lazy_cache_starts_before_its_server() {
    let mut server = RedisServer::reserve();
    let cache = RedisCache::builder(server.url()).build_lazy().unwrap();
    let began = Instant::now();
    for _ in 0..2 {
        let error = cache.put("k", bytes("v"), hour()).await.unwrap_err();
        assert_eq!(error.kind(), CacheErrorKind::Unavailable, "{error:?}");
    }
    assert!(began.elapsed() < Duration::from_millis(1200), "{:?}", began.elapsed());
    server.restart();
    assert!(cache.put("k", bytes("v"), hour()).await.unwrap().is_some());
    assert_eq!(value(&cache, "k").await, Some(bytes("v")));
}

#[tokio::test]
async fn a_password_is_asked_for_at_the_start_and_followed_when_it_changes() {
    let server = RedisServer::start_with(&["--requirepass", "pa55-canary"]);
    let error = RedisCache::connect(server.url()).await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Refused, "{error:?}");
    let url = |password: &str| format!("redis://:{password}@127.0.0.1:{}", server.port());
    let error = RedisCache::connect(url("wr0ng-canary")).await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Refused, "{error:?}");
    assert!(!format!("{error:?}").contains("canary"));

    let early = RedisCache::builder(url("later-canary")).build_lazy().unwrap();
    assert_eq!(early.ping().await.unwrap_err().kind(), CacheErrorKind::Refused);
    let admin = redis::Client::open(url("pa55-canary")).unwrap();
    let mut admin = admin.get_multiplexed_async_connection().await.unwrap();
    let mut change = redis::cmd("CONFIG");
    change.arg("SET").arg("requirepass").arg("later-canary").exec_async(&mut admin).await.unwrap();
    tokio::time::sleep(Duration::from_millis(220)).await;
    let _ = early.ping().await;
    early.ping().await.unwrap();
}

async fn answer(
    mut stream: tokio::net::TcpStream,
    left: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    to_others: &'static str,
) {
    use std::sync::atomic::Ordering::SeqCst;
    let mut request = vec![0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut request).await {
        let text = String::from_utf8_lossy(&request[..count]).into_owned();
        let mut answer = "+OK\r\n".repeat(text.matches("SETINFO").count());
        if text.contains("PING") {
            let loads = left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
            answer += if loads { "-LOADING Redis is loading the dataset in memory\r\n" } else { "+PONG\r\n" };
        } else if !text.contains("SETINFO") && !to_others.is_empty() {
            answer += &format!("{to_others}\r\n");
        }
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Answers the first pings with an error, and later ones as Redis does.
async fn loading_server(errors: usize) -> String {
    answering_server(errors, "").await
}

/// The same, with this answer to other commands, one at a time.
async fn answering_server(errors: usize, to_others: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let left = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(errors));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, left.clone(), to_others));
        }
    });
    url
}

#[tokio::test]
async fn a_server_that_loads_is_waited_for_within_the_limit() {
    RedisCache::connect(loading_server(4).await).await.unwrap();
    let began = Instant::now();
    let error = RedisCache::connect(loading_server(usize::MAX).await).await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Unavailable, "{error:?}");
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_answer_that_is_no_answer_is_an_error() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let began = Instant::now();
    RedisCache::connect(url).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}
