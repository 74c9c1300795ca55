//! What an outage costs while it lasts: operations are refused at once, no connections pile up, and all is well soon after.
use std::time::{Duration, Instant};

use cloakroom::{Cache, CacheErrorKind};
use tokio::{task::JoinSet, time::sleep};

use crate::shared::{entry, expiry, shown};
#[cfg(feature = "mysql")]
use crate::support::mariadb_server::MariaDbServer;
#[cfg(feature = "postgres")]
use crate::support::postgres_server::PostgresServer;

const REFUSED: &str = "refused but for one every 250 ms";

/// The connections of this process to a port, where the system tells.
fn connections(port: u16) -> usize {
    let tcp = std::fs::read_to_string("/proc/self/net/tcp").unwrap_or_default();
    let remote = format!(":{port:04X}");
    let established = |line: &&str| {
        let mut words = line.split_whitespace().skip(2);
        words.next().is_some_and(|to| to.ends_with(&remote)) && words.next() == Some("01")
    };
    tcp.lines().filter(established).count()
}

struct Load {
    refused: usize,
    of: usize,
    took: Duration,
    /// The most connections that were open at once.
    open: usize,
}

impl Load {
    /// All were refused but the probes: one at a time, and the next one after a pause.
    fn is_refused(&self) -> bool {
        self.of - self.refused <= 1 + (self.took.as_millis() / 250) as usize
    }
}

/// 250 operations a second for a while: how many of them were refused at once.
async fn load<C: Cache + Clone>(cache: &C, port: u16, length: Duration) -> Load {
    let (mut tasks, begun, mut open) = (JoinSet::new(), Instant::now(), 0);
    while begun.elapsed() < length {
        let cache = cache.clone();
        let write = tasks.len() % 5 == 0;
        tasks.spawn(
            async move { if write { cache.touch("k").await.map(drop) } else { cache.get("k").await.map(drop) } },
        );
        sleep(Duration::from_millis(4)).await;
        open = open.max(connections(port));
    }
    let errors: Vec<_> = tasks.join_all().await.into_iter().map(Result::unwrap_err).collect();
    let refused = errors.iter().filter(|error| shown(error).contains(REFUSED));
    assert!(refused.clone().all(|error| error.kind() == CacheErrorKind::Unavailable));
    Load { refused: refused.count(), of: errors.len(), took: begun.elapsed(), open }
}

async fn outage<C: Cache + Clone, S>(cache: C, port: u16, server: &mut S, hit: impl Fn(&mut S), cure: impl Fn(&mut S)) {
    let there = entry("1");
    // An insert whose answer came too late is recognised.
    while !cache.insert("k", there.clone(), expiry()).await.unwrap_or(false) {}
    assert!(connections(port) > 0 || !cfg!(target_os = "linux"), "connections are not counted");
    hit(server);
    let (began, second) = (Instant::now(), Duration::from_secs(1));
    // How long it takes until the outage is known and the connections are closed depends on the machine; what follows does not.
    loop {
        let load = load(&cache, port, second).await;
        eprintln!("refused at once: {} of {} in {:?}; {} connections", load.refused, load.of, load.took, load.open);
        assert!(load.open <= 12, "{} connections", load.open);
        if load.is_refused() && load.open <= 3 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "the outage is not noticed");
    }
    let load = load(&cache, port, second).await;
    assert!(load.is_refused(), "{} of {} were refused at once, in {:?}", load.refused, load.of, load.took);
    assert!(load.open <= 3, "{} connections", load.open);
    cure(server);
    let cured = Instant::now();
    while cache.get("k").await.ok() != Some(Some(there.clone())) {
        assert!(cured.elapsed() < Duration::from_secs(20), "it answers, and operations fail");
        sleep(Duration::from_millis(10)).await;
    }
    // Nothing is refused any more; on a busy machine an operation may take too long all the same.
    let mut done = 0;
    while done < 20 {
        assert!(cured.elapsed() < Duration::from_secs(30), "it answers, and operations fail");
        match cache.touch("k").await {
            Ok(_) => done += 1,
            Err(error) => assert!(!shown(&error).contains(REFUSED), "{error:?}"),
        }
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use cloakroom::PostgresCache;

    use super::*;

    async fn cache(server: &PostgresServer) -> PostgresCache {
        let cache = PostgresCache::connect(server.url()).await.unwrap();
        cache.migrate().await.unwrap();
        cache
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_that_hangs_is_not_waited_for_by_all() {
        let mut server = PostgresServer::start();
        let (cache, port) = (cache(&server).await, server.port());
        outage(cache, port, &mut server, |server| server.pause(), |server| server.resume()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_that_hangs_is_not_waited_for_by_all_in_a_pool_of_the_application() {
        let mut server = PostgresServer::start();
        let pool = sqlx::postgres::PgPoolOptions::new().max_connections(8).connect(&server.url()).await.unwrap();
        let (cache, port) = (PostgresCache::from_pool(pool), server.port());
        cache.migrate().await.unwrap();
        outage(cache, port, &mut server, |server| server.pause(), |server| server.resume()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_that_is_gone_is_not_waited_for_by_all() {
        let mut server = PostgresServer::start();
        let (cache, port) = (cache(&server).await, server.port());
        outage(cache, port, &mut server, PostgresServer::kill, PostgresServer::restart).await;
    }

    /// One after the other, so that each fails before the next one begins.
    #[tokio::test]
    async fn it_can_be_switched_off_and_migrations_are_not_refused() {
        let port = crate::support::process::free_port();
        let builder = || {
            let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
            PostgresCache::builder(url).timeout(Duration::from_millis(100))
        };
        let (fast, patient) = (builder().build_lazy().unwrap(), builder().fail_fast(false).build_lazy().unwrap());
        let mut refused = [0, 0];
        for _ in 0..12 {
            for (cache, refused) in [&fast, &patient].into_iter().zip(&mut refused) {
                let error = cache.get("k").await.unwrap_err();
                assert_eq!(error.kind(), CacheErrorKind::Unavailable);
                *refused += usize::from(shown(&error).contains(REFUSED));
            }
        }
        assert!(refused[0] >= 4 && refused[1] == 0, "{refused:?}");
        let migration = tokio::time::timeout(Duration::from_millis(300), fast.migrate());
        assert!(migration.await.is_err(), "it waits for the database to come up");
    }

    /// A lock that is held for longer than the time limit is no outage.
    #[tokio::test]
    async fn what_waits_for_a_lock_does_not_have_the_rest_refused() {
        let server = PostgresServer::start();
        cache(&server).await;
        let cache = PostgresCache::builder(server.url()).timeout(Duration::from_millis(200)).build().await.unwrap();
        let there = entry("1");
        assert!(cache.insert("k", there.clone(), expiry()).await.unwrap());
        let pool = sqlx::PgPool::connect(&server.url()).await.unwrap();
        let mut other = pool.begin().await.unwrap();
        sqlx::query("SELECT 1 FROM cloakroom_sessions FOR UPDATE").execute(&mut *other).await.unwrap();
        for _ in 0..8 {
            let error = cache.touch("k").await.unwrap_err();
            assert!(!shown(&error).contains(REFUSED), "{error:?}");
        }
        other.rollback().await.unwrap();
        assert_eq!(cache.get("k").await.unwrap(), Some(there));
    }
}

#[cfg(feature = "mysql")]
mod mysql {
    use cloakroom::MySqlCache;

    use super::*;

    async fn cache(server: &MariaDbServer) -> MySqlCache {
        let cache = MySqlCache::connect(server.url()).await.unwrap();
        cache.migrate().await.unwrap();
        cache
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_that_hangs_is_not_waited_for_by_all() {
        let mut server = MariaDbServer::start();
        let (cache, port) = (cache(&server).await, server.port());
        outage(cache, port, &mut server, |server| server.pause(), |server| server.resume()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_that_is_gone_is_not_waited_for_by_all() {
        let mut server = MariaDbServer::start_with(&["--innodb-flush-log-at-trx-commit=1"]);
        let (cache, port) = (cache(&server).await, server.port());
        outage(cache, port, &mut server, MariaDbServer::kill, MariaDbServer::restart).await;
    }
}
