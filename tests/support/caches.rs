//! The caches that a test runs on, each with what has to live as long as the test does.

/// One test for each function and cache. The functions take a cache. The attribute of the tests may be given first, and
/// after it another module that has the functions of `support::caches`.
macro_rules! on_every_cache {
    ($($name:ident),+ $(,)?) => {
        on_every_cache! { #[tokio::test] $($name),+ }
    };
    (#[$test:meta] $($name:ident),+ $(,)?) => {
        on_every_cache! { #[$test] in crate::support::caches; $($name),+ }
    };
    (#[$test:meta] in $($caches:ident)::+; $($name:ident),+ $(,)?) => {
        mod memory {
            use $($caches)::+ as caches;

            $(#[$test]
            async fn $name() {
                let (_server, cache) = caches::memory().await;
                super::$name(cache).await;
            })+
        }
        #[cfg(feature = "encryption")]
        mod encrypted {
            use $($caches)::+ as caches;

            $(#[$test]
            async fn $name() {
                let (_inside, cache) = caches::encrypted().await;
                super::$name(cache).await;
            })+
        }
        #[cfg(feature = "redis")]
        mod redis {
            use $($caches)::+ as caches;

            $(#[$test]
            async fn $name() {
                let (_server, cache) = caches::redis().await;
                super::$name(cache).await;
            })+
        }
        #[cfg(feature = "sqlite")]
        mod sqlite {
            use $($caches)::+ as caches;

            $(#[$test]
            async fn $name() {
                let (_file, cache) = caches::sqlite().await;
                super::$name(cache).await;
            })+
        }
        #[cfg(feature = "postgres")]
        mod postgres {
            use $($caches)::+ as caches;

            $(#[$test]
            async fn $name() {
                let (_tables, cache) = caches::postgres().await;
                super::$name(cache).await;
            })+
        }
        #[cfg(feature = "mysql")]
        mod mariadb {
            use $($caches)::+ as caches;

            $(#[$test]
            async fn $name() {
                let (_tables, cache) = caches::mariadb().await;
                super::$name(cache).await;
            })+
        }
    };
}
pub(crate) use on_every_cache;

pub async fn memory() -> ((), cloakroom::InMemoryCache) {
    ((), cloakroom::InMemoryCache::new())
}

/// Values are encrypted with a key of the test's own.
#[cfg(feature = "encryption")]
pub fn encrypt<C: cloakroom::Cache>(inside: C) -> cloakroom::EncryptedCache<C> {
    let key = cloakroom::EncryptionKey::generate().unwrap();
    cloakroom::EncryptedCache::new(inside, [key]).unwrap()
}

/// In memory.
#[cfg(feature = "encryption")]
pub async fn encrypted() -> ((), cloakroom::EncryptedCache<cloakroom::InMemoryCache>) {
    ((), encrypt(cloakroom::InMemoryCache::new()))
}

#[cfg(feature = "redis")]
pub async fn redis() -> (super::redis_server::RedisServer, cloakroom::RedisCache) {
    let server = super::redis_server::RedisServer::start();
    let cache = super::redis_server::patient(&server).await;
    (server, cache)
}

#[cfg(feature = "sqlite")]
pub async fn sqlite() -> (super::sqlite_file::SqliteFile, cloakroom::SqliteCache) {
    let file = super::sqlite_file::SqliteFile::new();
    let cache = file.patient().await;
    (file, cache)
}

/// In tables of the test's own, on the server that all tests of the process share.
#[cfg(feature = "postgres")]
pub async fn postgres() -> (super::postgres_server::Tables, cloakroom::PostgresCache) {
    let tables = super::postgres_server::Tables::new();
    let cache = tables.cache().await;
    (tables, cache)
}

/// In tables of the test's own, on the server that all tests of the process share.
#[cfg(feature = "mysql")]
pub async fn mariadb() -> (super::mariadb_server::Tables, cloakroom::MySqlCache) {
    let tables = super::mariadb_server::Tables::new();
    let cache = tables.cache().await;
    (tables, cache)
}
