//! A Redis (or Valkey) server of a test's own, on loopback.
use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

/// Runs until it is dropped. Saves nothing unless `start_with` sets it.
#[derive(Debug)]
pub struct RedisServer {
    program: PathBuf,
    port: u16,
    dir: PathBuf,
    args: Vec<String>,
    /// Variables of its environment.
    env: Vec<(&'static str, String)>,
    /// What it is to read in place of the settings of a server: the file of a sentinel.
    sentinel: Option<String>,
    child: Option<Child>,
}

impl RedisServer {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more settings, as on the command line: `&["--appendonly", "yes"]`.
    pub fn start_with(args: &[&str]) -> Self {
        Self::start_first(|| Self::reserve_with(args))
    }

    /// With the rules for sorting text of this locale, `en_US` for example, in UTF-8.
    pub fn start_in_locale(locale: &str) -> Self {
        Self::start_first(|| {
            let mut server = Self::reserve();
            let name = format!("{locale}.UTF-8");
            let made =
                Command::new("localedef").args(["-i", locale, "-f", "UTF-8"]).arg(server.dir.join(&name)).status();
            let way = "no locales: `apt-get install locales` gets `localedef` and what it reads";
            assert!(made.expect(way).success(), "{way}");
            server.env = vec![("LOCPATH", server.dir.display().to_string()), ("LC_ALL", name)];
            server
        })
    }

    /// On another port where the first one is taken meanwhile.
    fn start_first(reserve: impl Fn() -> Self) -> Self {
        for _ in 0..5 {
            let mut server = reserve();
            match server.try_start() {
                Ok(()) => return server,
                Err(why) => eprintln!("{why}"),
            }
        }
        panic!("no server starts, see above");
    }

    /// A server that does not run before `restart`.
    pub fn reserve() -> Self {
        Self::reserve_with(&[])
    }

    fn reserve_with(args: &[&str]) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("cloakroom-redis-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).expect("a directory for the server");
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        Self { program: program(), port: free_port(), dir, args, env: Vec::new(), sentinel: None, child: None }
    }

    /// A sentinel that watches the primary on this port, under the name `sessions`, and acts fast.
    pub fn sentinel(primary: u16) -> Self {
        Self::start_first(|| {
            let mut server = Self::reserve();
            server.sentinel = Some(format!(
                "port {}\nbind 127.0.0.1\ndir {}\nsentinel monitor sessions 127.0.0.1 {primary} 2\n\
                 sentinel down-after-milliseconds sessions 2000\nsentinel failover-timeout sessions 4000\n",
                server.port,
                server.dir.display(),
            ));
            server
        })
    }

    /// Where it keeps its files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Settings for the next start, over those of before.
    pub fn add_args(&mut self, args: &[&str]) {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
    }

    /// How much memory and how many connections it has, and whatever else `INFO` says: the number after `name:`.
    pub fn info(&self, name: &str) -> u64 {
        let text = self.command(&["INFO", "everything"]).text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|number| number.trim().parse().ok()).unwrap_or_else(|| panic!("INFO has no number {name}"))
    }

    /// The first number of its version; of a Valkey, of the Redis that it says to be like.
    pub fn major_version(&self) -> u32 {
        let text = self.command(&["INFO", "server"]).text();
        let version = text.lines().find_map(|line| line.strip_prefix("redis_version:")).expect("its version");
        version.split('.').next().and_then(|number| number.parse().ok()).expect("a number")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts it on the same port if it does not run, and waits until it answers.
    pub fn restart(&mut self) {
        self.stop();
        self.try_start().unwrap_or_else(|why| panic!("{why}"));
    }

    /// Starts it without waiting for it to answer.
    pub fn restart_only(&mut self) {
        self.stop();
        self.spawn();
    }

    fn try_start(&mut self) -> Result<(), String> {
        self.spawn();
        if self.answers() {
            return Ok(());
        }
        self.stop();
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        Err(format!("{} does not start on port {}:\n{log}", self.program.display(), self.port))
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn spawn(&mut self) {
        let mut command = Command::new(&self.program);
        if let Some(settings) = &self.sentinel {
            let file = self.dir.join("sentinel.conf");
            std::fs::write(&file, settings).expect("a file for the sentinel");
            command.arg(file).arg("--sentinel");
        } else {
            command
                .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--loglevel", "warning"])
                .args(["--save", "", "--appendonly", "no", "--dir"])
                .arg(&self.dir)
                .args(&self.args);
        }
        let log = std::fs::File::create(self.log()).expect("a file for the log");
        let errors = log.try_clone().expect("the same file");
        let child = command
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", self.program.display()));
        self.child = Some(child);
    }

    fn answers(&mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(30) {
            let ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if ended {
                return false;
            }
            // A server that asks for a password is up, too.
            match self.try_command(&[b"PING"]) {
                Ok(Reply::Simple(_)) => return true,
                Ok(Reply::Error(text)) if !text.starts_with("LOADING") => return true,
                _ => sleep(Duration::from_millis(3)),
            }
        }
        false
    }

    /// Ends it as `kill -9` does.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it from running, with its connections open.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let id = self.child.as_ref().expect("the server runs").id().to_string();
        let status = Command::new("kill").args([signal, &id]).status().expect("the program `kill`");
        assert!(status.success(), "kill {signal} {id}");
    }

    /// Sends one command on a connection of its own.
    pub fn command(&self, args: &[&str]) -> Reply {
        let args: Vec<_> = args.iter().map(|arg| arg.as_bytes()).collect();
        self.command_bytes(&args)
    }

    pub fn command_bytes(&self, args: &[&[u8]]) -> Reply {
        self.try_command(args).expect("the server answers")
    }

    /// The same while it may be down.
    pub fn try_command(&self, args: &[&[u8]]) -> io::Result<Reply> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut request = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            request.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            request.extend_from_slice(arg);
            request.extend_from_slice(b"\r\n");
        }
        stream.write_all(&request)?;
        Reply::read(&mut BufReader::new(stream))
    }

    /// Whether it is `master` or `slave`: while that changes, it closes connections.
    pub fn is(&self, role: &str) -> bool {
        self.try_command(&[b"ROLE"]).is_ok_and(|answer| answer.text().starts_with(role))
    }

    /// How often each command was called since `reset_calls`, in small letters: `get`, `set`, `evalsha` ….
    pub fn calls(&self) -> BTreeMap<String, u64> {
        let text = self.command(&["INFO", "commandstats"]).text();
        let line = |line: &str| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
        };
        text.lines().filter_map(line).collect()
    }

    pub fn reset_calls(&self) {
        self.command(&["CONFIG", "RESETSTAT"]);
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The program to test with, where it is another one than the Redis or Valkey on `PATH`.
const PROGRAM: &str = "CLOAKROOM_REDIS_SERVER";

fn program() -> PathBuf {
    if let Some(file) = std::env::var_os(PROGRAM).map(PathBuf::from) {
        assert!(file.is_file(), "{PROGRAM} is not the path of a program: {}", file.display());
        return file;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<_> = std::env::split_paths(&path).collect();
    let found = ["redis-server", "valkey-server"].iter().find_map(|name| {
        let file = dirs.iter().map(|dir: &PathBuf| Path::new(dir).join(name));
        file.into_iter().find(|file| file.is_file())
    });
    let way = "no redis-server: `apt-get install redis-server` or `brew install redis` gets it, or set the variable \
               CLOAKROOM_REDIS_SERVER to the path of one";
    found.expect(way)
}

/// A port for a server, another one each time, and ten thousand above it one for the bus of a cluster. Both are below
/// what the system gives to outgoing connections, one of which could else take the port of a server that is to come back.
pub fn free_port() -> u16 {
    static NEXT: OnceLock<AtomicU64> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU64::new(RandomState::new().hash_one(())));
    loop {
        let port = 10_000 + (next.fetch_add(1, Ordering::Relaxed) % 10_000) as u16;
        if [port, port + 10_000].iter().all(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return port;
        }
    }
}

/// What the server answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Nil,
    Simple(String),
    Error(String),
    Int(i64),
    Bytes(Vec<u8>),
    Array(Vec<Self>),
}

impl Reply {
    fn read(from: &mut impl BufRead) -> io::Result<Self> {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1).ok_or(io::ErrorKind::InvalidData)?;
        let number = || rest.parse::<i64>().map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        Ok(match kind {
            "+" => Self::Simple(rest.to_owned()),
            "-" => Self::Error(rest.to_owned()),
            ":" => Self::Int(number()?),
            "$" | "*" if number()? < 0 => Self::Nil,
            "$" => {
                let mut bytes = vec![0; number()? as usize + 2];
                from.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Self::Bytes(bytes)
            }
            "*" => Self::Array((0..number()?).map(|_| Self::read(from)).collect::<io::Result<_>>()?),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        })
    }

    pub fn text(&self) -> String {
        match self {
            Self::Nil => String::new(),
            Self::Simple(text) | Self::Error(text) => text.clone(),
            Self::Int(number) => number.to_string(),
            Self::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Array(replies) => replies.iter().map(Self::text).collect::<Vec<_>>().join("\n"),
        }
    }

    pub fn int(&self) -> i64 {
        match self {
            Self::Int(number) => *number,
            other => panic!("not a number: {other:?}"),
        }
    }
}

/// A cache on this server that outwaits a machine which is busy with other tests.
pub async fn patient(server: &RedisServer) -> cloakroom::RedisCache {
    cloakroom::RedisCache::builder(server.url()).timeout(Duration::from_secs(10)).build().await.unwrap()
}
