//! The servers that histories are recorded on, and what befalls each of them meanwhile.
use std::{thread::sleep, time::Duration};

#[cfg(feature = "mysql")]
use crate::support::mariadb_server::{self, MariaDbServer};
#[cfg(feature = "postgres")]
use crate::support::postgres_server::{self, PostgresServer};
#[cfg(feature = "redis")]
use crate::support::redis_server::RedisServer;
#[cfg(feature = "sqlite")]
use crate::support::{sql_view::SqlView, sqlite_file::SqliteFile};

pub(crate) enum Server {
    #[cfg(feature = "redis")]
    Redis(RedisServer),
    #[cfg(feature = "postgres")]
    Postgres(PostgresServer),
    #[cfg(feature = "mysql")]
    MariaDb(MariaDbServer),
    #[cfg(feature = "sqlite")]
    Sqlite(SqliteFile, SqlView),
}

impl Server {
    #[cfg(feature = "redis")]
    pub(crate) fn redis() -> Self {
        Self::Redis(RedisServer::start())
    }

    #[cfg(feature = "postgres")]
    pub(crate) async fn postgres() -> Self {
        let server = PostgresServer::start();
        postgres_server::patient(&server).await;
        Self::Postgres(server)
    }

    #[cfg(feature = "mysql")]
    pub(crate) async fn mariadb() -> Self {
        let server = MariaDbServer::start();
        mariadb_server::patient(&server).await;
        Self::MariaDb(server)
    }

    #[cfg(feature = "sqlite")]
    pub(crate) async fn sqlite() -> Self {
        let file = SqliteFile::new();
        file.patient().await;
        let view = file.view();
        Self::Sqlite(file, view)
    }

    pub(crate) fn url(&self) -> String {
        match self {
            #[cfg(feature = "redis")]
            Self::Redis(server) => server.url(),
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => server.url(),
            #[cfg(feature = "mysql")]
            Self::MariaDb(server) => server.url(),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(file, _) => file.url(),
        }
    }

    /// The time limit of the clients: less than the longest fault.
    pub(crate) fn timeout(&self) -> Duration {
        match self {
            #[cfg(feature = "redis")]
            Self::Redis(_) => Duration::from_millis(60),
            #[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
            _ => Duration::from_millis(200),
        }
    }

    /// One fault after a moment: connections are killed, or the server stops for longer than the clients wait. On SQLite
    /// another one has the lock of the file: for a moment, or for longer.
    pub(crate) fn disturb(&self, seed: u64) {
        sleep(Duration::from_micros(2_000 + seed % 20_000));
        let (stops, pause) = (seed >> 61 == 0, self.timeout() + Duration::from_millis(20));
        match self {
            #[cfg(feature = "redis")]
            Self::Redis(server) if stops => {
                server.pause();
                sleep(pause);
                server.resume();
            }
            #[cfg(feature = "redis")]
            Self::Redis(server) => drop(server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])),
            #[cfg(feature = "postgres")]
            Self::Postgres(server) if stops => {
                server.pause();
                sleep(pause);
                server.resume();
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => {
                let others = "backend_type = 'client backend' AND pid <> pg_backend_pid()";
                server.sql(&format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {others}"));
            }
            #[cfg(feature = "mysql")]
            Self::MariaDb(server) if stops => {
                server.pause();
                sleep(pause);
                server.resume();
            }
            #[cfg(feature = "mysql")]
            Self::MariaDb(server) => server.kill_connections(),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_, view) => {
                view.rows("BEGIN IMMEDIATE");
                sleep(if stops { pause } else { Duration::from_millis(seed >> 32 & 15) });
                view.rows("COMMIT");
            }
        }
    }
}
