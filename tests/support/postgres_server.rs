//! A PostgreSQL server of a test's own, and a PgBouncer before it.
use std::{
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use cloakroom::PostgresCache;

use super::process::{
    Directory, copy_of, end_with_this_process, find, free_port, give, run, signal, spawn, try_run, unprivileged,
};

/// Runs until it is dropped.
#[derive(Debug)]
pub struct PostgresServer {
    port: u16,
    dir: Directory,
    settings: Vec<String>,
    child: Option<Child>,
}

impl PostgresServer {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more settings: `&["max_connections=10"]`.
    pub fn start_with(settings: &[&str]) -> Self {
        Self::start_in(settings, |data| {
            let initdb = program("initdb");
            let set_up = copy_of(&initdb, data, |data| {
                try_run(
                    unprivileged(&initdb)
                        .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"])
                        .args(["--no-sync", "-D"])
                        .arg(data),
                )
            });
            set_up.unwrap_or_else(|why| panic!("{why}"));
        })
    }

    /// A replica of another one.
    pub fn replica_of(primary: &Self) -> Self {
        Self::start_in(&["hot_standby=on"], |data| {
            run(unprivileged(&program("pg_basebackup"))
                .args(["-h", "127.0.0.1", "-U", "postgres", "-R", "-c", "fast"])
                .args(["-p", &primary.port.to_string(), "-D"])
                .arg(data));
        })
    }

    fn start_in(settings: &[&str], fill: impl Fn(&Path)) -> Self {
        for _ in 0..5 {
            let dir = Directory::new("postgres");
            fill(&dir.path().join("data"));
            let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
            let mut server = Self { port: free_port(), dir, settings, child: None };
            match server.try_start() {
                Ok(()) => return server,
                Err(why) => eprintln!("{why}"),
            }
        }
        panic!("no server starts, see above");
    }

    /// Where it keeps its data, and its log beside them.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        url(self.port)
    }

    /// Starts it on the same port, and waits until it answers.
    pub fn restart(&mut self) {
        self.kill();
        self.try_start().unwrap_or_else(|why| panic!("{why}"));
    }

    fn try_start(&mut self) -> Result<(), String> {
        let log = self.dir.path().join("log");
        let mut command = unprivileged(&program("postgres"));
        command.args(["-p", &self.port.to_string(), "-D"]).arg(self.dir.path().join("data"));
        let quick = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "shared_buffers=32MB"];
        for setting in quick.iter().copied().chain(self.settings.iter().map(String::as_str)) {
            command.args(["-c", setting]);
        }
        self.child = Some(spawn(&mut command, &log));
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(30) {
            if self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None))) {
                break;
            }
            if self.try_sql("SELECT 1").is_ok() {
                return Ok(());
            }
            sleep(Duration::from_millis(20));
        }
        self.kill();
        Err(format!("no server on port {}:\n{}", self.port, std::fs::read_to_string(&log).unwrap_or_default()))
    }

    /// Ends it as `kill -9` of all its processes does, or nearly so: nothing is written any more, no client is told.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = try_run(Command::new("pkill").args(["-KILL", "-P", &child.id().to_string()]));
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops all its processes from running, with their connections open.
    pub fn pause(&self) {
        self.signal_all("-STOP");
    }

    pub fn resume(&self) {
        self.signal_all("-CONT");
    }

    fn signal_all(&self, name: &str) {
        let child = self.child.as_ref().expect("the server runs");
        signal(child, name);
        let _ = try_run(Command::new("pkill").args([name, "-P", &child.id().to_string()]));
    }

    pub fn sql(&self, text: &str) -> String {
        self.try_sql(text).unwrap_or_else(|why| panic!("{why}"))
    }

    fn try_sql(&self, text: &str) -> Result<String, String> {
        try_run(
            Command::new(program("psql"))
                .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres", "-XAtq", "-c", text])
                .env("PGCONNECT_TIMEOUT", "5"),
        )
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.resume();
        }
        self.kill();
    }
}

fn url(port: u16) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/postgres")
}

fn program(name: &str) -> PathBuf {
    static DIRS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    let dirs = DIRS.get_or_init(|| {
        let roots = ["/usr/lib/postgresql", "/usr/libexec", "/opt/homebrew/opt"];
        let versions = roots.iter().filter_map(|root| std::fs::read_dir(root).ok()).flatten().flatten();
        let mut dirs: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
        dirs.sort();
        dirs.reverse();
        dirs
    });
    find(name, dirs).unwrap_or_else(|| panic!("no {name}: `apt-get install postgresql` gets it"))
}

/// A pooler in transaction mode before a server.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    child: Child,
    _dir: Directory,
}

impl PgBouncer {
    pub fn before(server: &PostgresServer, connections: u32) -> Self {
        // A port that was free may be taken by now.
        (0..5).find_map(|_| Self::start(server.port(), connections)).expect("a pooler on one of five ports")
    }

    /// `None` where it ends again.
    fn start(server: u16, connections: u32) -> Option<Self> {
        let program = find("pgbouncer", &[]).expect("no pgbouncer: `apt-get install pgbouncer` gets it");
        let (dir, port) = (Directory::new("pgbouncer"), free_port());
        let (file, log) = (dir.path().join("pgbouncer.ini"), dir.path().join("log"));
        let settings = format!(
            "[databases]\npostgres = host=127.0.0.1 port={server} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nauth_type = any\nunix_socket_dir =\npool_mode = transaction\n\
             default_pool_size = {connections}\nserver_check_delay = 0\nlog_connections = 0\nlog_disconnections = 0\n\
             [users]\n",
        );
        std::fs::write(&file, settings).expect("a file for the pooler");
        give(&file);
        let mut pooler = Self { port, child: spawn(unprivileged(&program).arg(&file), &log), _dir: dir };
        let start = Instant::now();
        loop {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            // Whatever answers on the port may be another test's.
            if said.contains("process up") && std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(pooler);
            }
            if pooler.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                eprintln!("no pooler on port {port}:\n{said}");
                return None;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "no pooler on port {port}:\n{said}");
            sleep(Duration::from_millis(10));
        }
    }

    pub fn url(&self) -> String {
        url(self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A cache with its tables that outwaits a machine which is busy with other tests.
pub async fn patient(server: &PostgresServer) -> PostgresCache {
    let cache = PostgresCache::builder(server.url()).timeout(Duration::from_secs(20)).build().await.unwrap();
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
        super::sql_view::SqlView::postgres(self.url.clone(), &self.name)
    }

    /// A cache that outwaits a machine which is busy with other tests.
    pub async fn cache(&self) -> PostgresCache {
        let tables = cloakroom::SqlTables::named(&self.name).unwrap();
        let cache = PostgresCache::builder(&self.url).tables(tables).timeout(Duration::from_secs(20)).build();
        let cache = cache.await.unwrap();
        cache.migrate().await.unwrap();
        cache
    }
}

/// One server for the process, started by the first test that asks for it.
fn shared_url() -> String {
    static SHARED: OnceLock<(PostgresServer, Child)> = OnceLock::new();
    let (server, _) = SHARED.get_or_init(|| {
        let server = PostgresServer::start_with(&["max_connections=300"]);
        let end = end_with_this_process(server.child.as_ref().expect("the server runs"), server.dir.path());
        (server, end)
    });
    server.url()
}
