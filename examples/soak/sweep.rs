//! How long requests take while rows that ended are removed, and without that.
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use cloakroom::{Bytes, Cache, Entry, Expiry, Replaced, Version};
use tokio::task::JoinSet;

use super::shared::Failure;

/// That many at once, each with a pause after each operation: a busy server, but not a full one.
const WORKERS: usize = 8;
const PAUSE: Duration = Duration::from_millis(2);
const LENGTH: Duration = Duration::from_secs(10);
/// What a row that ended keeps.
const VALUE: usize = 300;

pub async fn sweep(url: &str, rows: usize) -> Result<(), Failure> {
    match url.split(':').next() {
        #[cfg(feature = "postgres")]
        Some("postgres" | "postgresql") => {
            let cache = cloakroom::PostgresCache::builder(url).timeout(Duration::from_secs(10)).build().await?;
            cache.migrate().await?;
            let pool = sqlx::PgPool::connect(url).await?;
            let dead = format!(
                "INSERT INTO cloakroom_sessions (entry_key, value, version, idle_ms, touched_ms, end_ms, due_ms)
                 SELECT sha256(n::text::bytea), convert_to(repeat('x', {VALUE}), 'UTF8'), n, 1, 1, 1,
                   3600000 * (1 + n * 300::bigint / {rows}) FROM generate_series(1, {rows}) n"
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(dead)).execute(&pool).await?;
            // The rows are on the disk before the load begins; the rights to ask for that may be missing.
            let _ = sqlx::raw_sql("CHECKPOINT").execute(&pool).await;
            measured(&cache, cache.sweep(usize::MAX)).await
        }
        #[cfg(feature = "mysql")]
        Some("mysql" | "mariadb") => {
            let cache = cloakroom::MySqlCache::builder(url).timeout(Duration::from_secs(10)).build().await?;
            cache.migrate().await?;
            let pool = sqlx::MySqlPool::connect(url).await?;
            // MariaDB has tables of numbers by their names.
            let dead = format!(
                "INSERT INTO cloakroom_sessions (entry_key, value, version, idle_ms, touched_ms, end_ms, due_ms)
                 SELECT UNHEX(SHA2(seq, 256)), REPEAT('x', {VALUE}), seq, 1, 1, 1,
                   3600000 * (1 + seq * 300 DIV {rows}) FROM seq_1_to_{rows}"
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(dead)).execute(&pool).await?;
            written_back(&pool).await?;
            measured(&cache, cache.sweep(usize::MAX)).await
        }
        #[cfg(feature = "sqlite")]
        _ => {
            let cache = cloakroom::SqliteCache::builder(url).timeout(Duration::from_secs(10)).build().await?;
            cache.migrate().await?;
            let pool = sqlx::SqlitePool::connect(url).await?;
            let dead = format!(
                "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {rows})
                 INSERT INTO cloakroom_sessions (entry_key, value, version, idle_ms, touched_ms, end_ms, due_ms)
                 SELECT randomblob(32), zeroblob({VALUE}), n, 1, 1, 1, 3600000 * (1 + n * 300 / {rows}) FROM number"
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(dead)).execute(&pool).await?;
            sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&pool).await?;
            measured(&cache, cache.sweep(usize::MAX)).await
        }
        #[cfg(not(feature = "sqlite"))]
        _ => Err("the feature of this database is off".into()),
    }
}

/// Waits until the rows are on the disk, where the rights allow to see to that.
#[cfg(feature = "mysql")]
async fn written_back(pool: &sqlx::MySqlPool) -> Result<(), Failure> {
    let dirty_pages = "SELECT CAST(VARIABLE_VALUE AS SIGNED) FROM information_schema.GLOBAL_STATUS
                       WHERE VARIABLE_NAME = 'Innodb_buffer_pool_pages_dirty'";
    let set =
        |percent| sqlx::raw_sql(sqlx::AssertSqlSafe(format!("SET GLOBAL innodb_max_dirty_pages_pct = {percent}")));
    if set(0).execute(pool).await.is_err() {
        return Ok(());
    }
    let begun = Instant::now();
    while sqlx::query_scalar::<_, i64>(dirty_pages).fetch_one(pool).await? > 100 && begun.elapsed() < 6 * LENGTH {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    set(90).execute(pool).await?;
    Ok(())
}

async fn measured<C: Cache + Clone>(
    cache: &C,
    sweep: impl Future<Output = Result<usize, cloakroom::CacheError>>,
) -> Result<(), Failure> {
    let (begun, mut removed) = (Instant::now(), Ok(0));
    let during = load(cache, "during the sweep", async { removed = sweep.await }).await?;
    let (removed, took) = (removed?, begun.elapsed());
    println!("{during}\n{removed} rows in {took:.1?}");
    // As long as the sweep: the longest of many times is longer than that of few.
    println!("{}", load(cache, "as long without one", tokio::time::sleep(took.max(LENGTH))).await?);
    Ok(())
}

/// Gets and replaces until `work` is done: how long they took.
async fn load<C: Cache + Clone>(cache: &C, name: &str, work: impl Future<Output = ()>) -> Result<String, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = JoinSet::new();
    for number in 0..WORKERS {
        workers.spawn(worker(cache.clone(), format!("live {number}"), Arc::clone(&stop)));
    }
    work.await;
    stop.store(true, Ordering::Relaxed);
    let (mut gets, mut replaces) = (Vec::new(), Vec::new());
    while let Some(done) = workers.join_next().await {
        let (some_gets, some_replaces) = done??;
        gets.extend(some_gets);
        replaces.extend(some_replaces);
    }
    Ok(format!("{name}: gets {}; replaces {}", shown(&mut gets), shown(&mut replaces)))
}

async fn worker<C: Cache>(
    cache: C,
    key: String,
    stop: Arc<AtomicBool>,
) -> Result<(Vec<Duration>, Vec<Duration>), Failure> {
    let entry = || Entry::new(Bytes::from_static(&[b'x'; VALUE]), Version::unique());
    let expiry = || Expiry::new(Duration::from_secs(86_400), SystemTime::now() + Duration::from_secs(604_800));
    cache.insert(&key, entry(), expiry()).await?;
    let (mut gets, mut replaces) = (Vec::new(), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let there = cache.get(&key).await?.ok_or("a live entry is gone")?;
        gets.push(begun.elapsed());
        tokio::time::sleep(PAUSE).await;
        let begun = Instant::now();
        if cache.replace(&key, there.version, entry(), expiry()).await? != Replaced::Done {
            return Err("a write was refused".into());
        }
        replaces.push(begun.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    Ok((gets, replaces))
}

fn shown(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |share: f64| {
        let place = (times.len().saturating_sub(1) as f64 * share) as usize;
        times.get(place).copied().unwrap_or_default()
    };
    let over = times.iter().filter(|time| **time > Duration::from_millis(50)).count();
    let of = times.len();
    format!(
        "{of}, p50 {:.1?}, p99 {:.1?}, p99.9 {:.1?}, max {:.1?}, {over} over 50 ms",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    )
}
