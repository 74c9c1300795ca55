//! TLS: a server whose certificate is by the authority that was named, and those that are refused.
use cloakroom::{Cache, CacheErrorKind};

use crate::{
    shared::{entry, expiry, kind, shown},
    support::{
        authority::Authority,
        process::{Directory, give},
    },
};

/// A certificate for `name` and its key, where the server can read both.
fn certificate(authority: &Authority, dir: &Directory, name: &str, expired: bool) -> [String; 2] {
    use std::os::unix::fs::PermissionsExt;
    let (certificate, key) = authority.certificate(name, expired);
    [(certificate, "server.crt"), (key, "server.key")].map(|(from, name)| {
        let to = dir.path().join(name);
        std::fs::copy(from, &to).unwrap();
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).unwrap();
        give(&to);
        to.display().to_string()
    })
}

#[track_caller]
fn refused<C>(result: Result<C, cloakroom::CacheError>, text: &str) {
    let Err(error) = result else { panic!("a server that is not to be trusted was trusted") };
    assert!(shown(&error).contains(text), "{error:?}");
    assert_eq!(kind::<()>(Err(error)), CacheErrorKind::Refused);
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn postgres_is_reached_by_a_certificate_that_fits_and_by_no_other() {
    use cloakroom::PostgresCache;

    use crate::support::postgres_server::PostgresServer;

    let (authority, other, dir) = (Authority::new(), Authority::new(), Directory::new("tls"));
    let [certificate, key] = certificate(&authority, &dir, "IP:127.0.0.1", false);
    let settings = [format!("ssl_cert_file={certificate}"), format!("ssl_key_file={key}")];
    let server = PostgresServer::start_with(&["ssl=on", &settings[0], &settings[1]]);
    let connect = async |host: &str, mode: &str, root: &Authority| {
        let root = root.file("ca.crt").display().to_string();
        let url =
            format!("postgres://postgres:pa55@{host}:{}/postgres?sslmode={mode}&sslrootcert={root}", server.port());
        PostgresCache::connect(url).await
    };
    let cache = connect("127.0.0.1", "verify-full", &authority).await.unwrap();
    cache.migrate().await.unwrap();
    let there = entry("1");
    assert!(cache.insert("a", there.clone(), expiry()).await.unwrap());
    assert_eq!(cache.get("a").await.unwrap(), Some(there));
    assert_ne!(server.sql("SELECT count(*) FROM pg_stat_ssl WHERE ssl"), "0");

    refused(connect("127.0.0.1", "verify-full", &other).await, "certificate");
    refused(connect("localhost", "verify-full", &authority).await, "certificate");
    assert!(connect("localhost", "verify-ca", &authority).await.is_ok(), "the name does not count there");
    refused(connect("localhost", "verify-ca", &other).await, "certificate");

    let plain = PostgresServer::start();
    let url = format!("postgres://postgres:pa55@127.0.0.1:{}/postgres?sslmode=require", plain.port());
    refused(PostgresCache::connect(url).await, "TLS");
}

#[cfg(feature = "mysql")]
#[tokio::test]
async fn mariadb_is_reached_by_a_certificate_that_fits_and_by_no_other() {
    use cloakroom::MySqlCache;

    use crate::support::mariadb_server::MariaDbServer;

    let (authority, other, dir) = (Authority::new(), Authority::new(), Directory::new("tls"));
    let [certificate, key] = certificate(&authority, &dir, "IP:127.0.0.1", false);
    let server = MariaDbServer::start_with(&[&format!("--ssl-cert={certificate}"), &format!("--ssl-key={key}")]);
    let connect = async |host: &str, root: &Authority| {
        let root = root.file("ca.crt").display().to_string();
        let url = format!("mysql://root@{host}:{}/app?ssl-mode=VERIFY_IDENTITY&ssl-ca={root}", server.port());
        MySqlCache::connect(url).await
    };
    let cache = connect("127.0.0.1", &authority).await.unwrap();
    cache.migrate().await.unwrap();
    assert!(cache.insert("a", entry("1"), expiry()).await.unwrap());
    refused(connect("127.0.0.1", &other).await, "certificate");
    refused(connect("localhost", &authority).await, "certificate");
}
