//! Redis through TLS: whom the client believes, and what it tells whom. Needs a server that was built with TLS.
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cloakroom::{CacheErrorKind, Expiry, RedisCache, testing::cache_contract};
use tokio::{io::AsyncReadExt, net::TcpListener};

use crate::support::{
    authority::Authority,
    redis_server::{RedisServer, free_port},
    writes::Writes,
};

/// The contract does much at a time, and the machine may be busy with the servers of other tests.
const LIMIT: Duration = Duration::from_secs(20);
/// For settings that are wrong: what is not ready is asked again for three quarters of it.
const SHORT: Duration = Duration::from_secs(4);

fn hour() -> Expiry {
    Expiry { idle: Duration::from_secs(3600), end: SystemTime::now() + Duration::from_secs(7200) }
}

struct TlsServer {
    _server: RedisServer,
    port: u16,
}

fn tls_server(
    authority: &Authority,
    (certificate, key): (std::path::PathBuf, std::path::PathBuf),
    more: &[&str],
) -> TlsServer {
    let port = free_port();
    let (tls, ca) = (port.to_string(), authority.file("ca.crt"));
    let mut args = vec!["--tls-port", &tls, "--tls-cert-file", certificate.to_str().unwrap()];
    args.extend(["--tls-key-file", key.to_str().unwrap(), "--tls-ca-cert-file", ca.to_str().unwrap()]);
    args.extend(["--tls-auth-clients", "no"]);
    args.extend(more);
    TlsServer { _server: RedisServer::start_with(&args), port }
}

impl TlsServer {
    fn url(&self) -> String {
        format!("rediss://:pa55-canary@127.0.0.1:{}", self.port)
    }
}

#[tokio::test]
async fn the_contract_holds_through_tls() {
    let authority = Authority::new();
    let server =
        tls_server(&authority, authority.certificate("IP:127.0.0.1", false), &["--requirepass", "pa55-canary"]);
    let cache =
        RedisCache::builder(server.url()).root_certificate(authority.root()).timeout(LIMIT).build().await.unwrap();
    cache_contract(|| async { cache.clone() }, None).await;
}

#[tokio::test]
async fn a_server_may_ask_who_we_are() {
    let authority = Authority::new();
    let (certificate, key) = authority.certificate("IP:127.0.0.1", false);
    let server = tls_server(&authority, (certificate.clone(), key.clone()), &["--tls-auth-clients", "yes"]);
    let url = format!("rediss://127.0.0.1:{}", server.port);
    let anonymous = RedisCache::builder(&url).root_certificate(authority.root()).timeout(LIMIT);
    anonymous.clone().build().await.unwrap_err();
    let (certificate, key) = (std::fs::read(certificate).unwrap(), std::fs::read(key).unwrap());
    anonymous.client_certificate(certificate, key).build().await.unwrap();
}

#[tokio::test]
async fn a_server_that_cannot_be_trusted_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let good = tls_server(&authority, authority.certificate("IP:127.0.0.1", false), &[]);
    let named = tls_server(&authority, authority.certificate("DNS:redis.example", false), &[]);
    let old = tls_server(&authority, authority.certificate("IP:127.0.0.1", true), &[]);
    let legacy = ["--tls-protocols", "TLSv1 TLSv1.1", "--tls-ciphers", "ALL:@SECLEVEL=0"];
    let outdated = tls_server(&authority, authority.certificate("IP:127.0.0.1", false), &legacy);
    for (what, server, root) in [
        ("an unknown authority", &good, None),
        ("another authority", &good, Some(&other)),
        ("another name", &named, Some(&authority)),
        ("expired", &old, Some(&authority)),
        ("TLS 1.1", &outdated, Some(&authority)),
    ] {
        let mut builder = RedisCache::builder(server.url()).timeout(SHORT);
        if let Some(root) = root {
            builder = builder.root_certificate(root.root());
        }
        let error = builder.build().await.unwrap_err();
        let shown = format!("{error:?} {error}");
        assert!(!shown.contains("canary") && shown.contains(&format!("127.0.0.1:{}", server.port)), "{what}: {shown}");
        eprintln!("{what}: {error:?}");
        if what == "TLS 1.1" {
            assert!(matches!(error.kind(), CacheErrorKind::Refused | CacheErrorKind::Unavailable), "{what}: {error:?}");
        } else {
            assert_eq!(error.kind(), CacheErrorKind::Refused, "{what}: {error:?}");
        }
    }
}

#[tokio::test]
async fn a_plain_port_is_told_nothing() {
    let server = RedisServer::start();
    let url = format!("rediss://:pa55-canary@127.0.0.1:{}", server.port());
    let error = RedisCache::builder(url).timeout(SHORT).build().await.unwrap_err();
    assert!(matches!(error.kind(), CacheErrorKind::Refused | CacheErrorKind::Unavailable), "{error:?}");

    // A server that speaks no TLS is sent a greeting in TLS, and no more.
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("rediss://user:pa55-canary@{}", listener.local_addr().unwrap());
    let cache = RedisCache::builder(url).timeout(Duration::from_secs(1)).build_lazy().unwrap();
    let reader = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut seen)).await;
        seen
    });
    cache.put("key-canary", Bytes::from_static(b"data-canary"), hour()).await.unwrap_err();
    drop(cache);
    let seen = reader.await.unwrap();
    assert!(seen.starts_with(&[0x16, 3]) && !seen.windows(6).any(|part| part == b"canary"), "{seen:?}");
}

#[tokio::test]
async fn certificates_that_are_none_are_an_error() {
    let builder = RedisCache::builder("rediss://127.0.0.1:1");
    let wrong = ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"];
    for pem in wrong {
        let cache = builder.clone().root_certificate(pem).build_lazy();
        assert_eq!(cache.unwrap_err().kind(), CacheErrorKind::Other, "{pem}");
    }
    builder.client_certificate("no PEM", "no key").build_lazy().unwrap_err();
}
