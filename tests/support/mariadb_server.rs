//! A MariaDB server of a test's own.
use std::{
    path::PathBuf,
    process::{Child, Command},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use cloakroom::MySqlCache;

use super::process::{
    Directory, copy_of, end_with_this_process, find, free_port, signal, spawn, try_run, unprivileged,
};

const SERVER: &[&str] = &["mariadbd", "mysqld"];

/// Runs until it is dropped.
#[derive(Debug)]
pub struct MariaDbServer {
    port: u16,
    dir: Directory,
    settings: Vec<String>,
    child: Option<Child>,
}

impl MariaDbServer {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more settings: `&["--max-connections=10"]`.
    pub fn start_with(settings: &[&str]) -> Self {
        for _ in 0..5 {
            let dir = Directory::new("mariadb");
            if let Err(why) = install(&dir) {
                eprintln!("{why}");
                continue;
            }
            let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
            let mut server = Self { port: free_port(), dir, settings, child: None };
            match server.try_start() {
                Ok(()) => {
                    server.sql("CREATE DATABASE app");
                    return server;
                }
                Err(why) => eprintln!("{why}"),
            }
        }
        panic!("no server starts, see above");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("mysql://root@127.0.0.1:{}/app", self.port)
    }

    /// Starts it on the same port, and waits until it answers.
    pub fn restart(&mut self) {
        self.kill();
        self.try_start().unwrap_or_else(|why| panic!("{why}"));
    }

    fn try_start(&mut self) -> Result<(), String> {
        let (dir, log) = (self.dir.path(), self.dir.path().join("log"));
        let mut command = unprivileged(&program(SERVER));
        command
            .arg("--no-defaults")
            .arg(format!("--datadir={}", dir.join("data").display()))
            .arg(format!("--socket={}", dir.join("socket").display()))
            .arg(format!("--pid-file={}", dir.join("pid").display()))
            .args([&*format!("--port={}", self.port), "--bind-address=127.0.0.1"])
            .args(["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M"])
            .args(&self.settings);
        self.child = Some(spawn(&mut command, &log));
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(60) {
            if self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None))) {
                break;
            }
            if self.try_sql("SELECT 1").is_ok() {
                return Ok(());
            }
            sleep(Duration::from_millis(30));
        }
        self.kill();
        Err(format!("no server on port {}:\n{}", self.port, std::fs::read_to_string(&log).unwrap_or_default()))
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it from running, with its connections open.
    pub fn pause(&self) {
        signal(self.child.as_ref().expect("the server runs"), "-STOP");
    }

    pub fn resume(&self) {
        signal(self.child.as_ref().expect("the server runs"), "-CONT");
    }

    pub fn sql(&self, text: &str) -> String {
        self.try_sql(text).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Ends all connections to the database of the tests, as an administrator does.
    pub fn kill_connections(&self) {
        let others = "FROM information_schema.PROCESSLIST WHERE DB = 'app' AND ID <> CONNECTION_ID()";
        let kills = self.sql(&format!("SELECT CONCAT('KILL ', ID, ';') {others}"));
        // One that has ended meanwhile is an error.
        let _ = self.try_sql(&kills);
    }

    fn try_sql(&self, text: &str) -> Result<String, String> {
        try_run(
            Command::new(program(&["mariadb", "mysql"]))
                .args(["--no-defaults", "-h127.0.0.1", "-uroot", "--connect-timeout=5", "-N", "-B"])
                .arg(format!("-P{}", self.port))
                .args(["-e", text]),
        )
    }
}

impl Drop for MariaDbServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A cache with its tables that outwaits a machine which is busy with other tests.
pub async fn patient(server: &MariaDbServer) -> MySqlCache {
    let cache = MySqlCache::builder(server.url()).timeout(Duration::from_secs(20)).build().await.unwrap();
    cache.migrate().await.unwrap();
    cache
}

/// Tables of a test's own on the server that the tests of this process share.
#[derive(Debug)]
pub struct Tables {
    name: String,
    url: String,
}

impl Tables {
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        Self { name, url: shared_url() }
    }

    /// What is in the tables.
    pub fn view(&self) -> super::sql_view::SqlView {
        super::sql_view::SqlView::mysql(self.url.clone(), &self.name)
    }

    /// A cache that outwaits a machine which is busy with other tests.
    pub async fn cache(&self) -> MySqlCache {
        let tables = cloakroom::SqlTables::named(&self.name).unwrap();
        let cache = MySqlCache::builder(&self.url).tables(tables).timeout(Duration::from_secs(20)).build();
        let cache = cache.await.unwrap();
        cache.migrate().await.unwrap();
        cache
    }
}

/// One server for the process, started by the first test that asks for it.
fn shared_url() -> String {
    static SHARED: OnceLock<(MariaDbServer, Child)> = OnceLock::new();
    let (server, _) = SHARED.get_or_init(|| {
        let server = MariaDbServer::start_with(&["--max-connections=300"]);
        let end = end_with_this_process(server.child.as_ref().expect("the server runs"), server.dir.path());
        (server, end)
    });
    server.url()
}

fn install(dir: &Directory) -> Result<(), String> {
    let install = program(&["mariadb-install-db", "mysql_install_db"]);
    copy_of(&program(SERVER), &dir.path().join("data"), |data| {
        try_run(
            unprivileged(&install)
                .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
                .arg(format!("--datadir={}", data.display())),
        )
    })
}

fn program(names: &[&str]) -> PathBuf {
    let found = names.iter().find_map(|name| find(name, &[]));
    found.unwrap_or_else(|| panic!("no {}: `apt-get install mariadb-server` gets it", names[0]))
}
