//! Programs that refuse to run as root, on ports and in directories of a test's own.
use std::{
    hash::{BuildHasher, RandomState},
    net::TcpListener,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// The unprivileged user of every system that the tests run on.
const UNPRIVILEGED: u32 = 65534;

/// A directory that goes with it.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("cloakroom-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its permissions");
        give(&path);
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Copies to `to` what `fill` puts into a directory, which is done once for all runs of tests: setting up a database takes
/// seconds. `program` is the one that does it; another version of it does it again.
pub fn copy_of(program: &Path, to: &Path, fill: impl FnOnce(&Path) -> Result<String, String>) -> Result<(), String> {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let version = try_run(Command::new(program).arg("--version"))?;
    let name: String = version.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let kept = option_env!("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from).join(name);
    let copy = |from: &Path, to: &Path| try_run(Command::new("cp").arg("-a").arg(from).arg(to));
    if !kept.exists() {
        let made = Directory::new("set-up");
        fill(&made.path().join("data"))?;
        let own = kept.with_extension(std::process::id().to_string());
        copy(&made.path().join("data"), &own)?;
        if std::fs::rename(&own, &kept).is_err() {
            // Another process was first.
            let _ = std::fs::remove_dir_all(&own);
        }
    }
    copy(&kept, to).map(drop)
}

/// Leaves it to the unprivileged user, if there is a need.
pub fn give(path: &Path) {
    if is_root() {
        chown(path, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).expect("another owner");
    }
}

fn is_root() -> bool {
    static ROOT: OnceLock<bool> = OnceLock::new();
    *ROOT.get_or_init(|| std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0))
}

/// The program as an unprivileged user, also where root runs the tests.
pub fn unprivileged(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    let (user, group) = (format!("--reuid={UNPRIVILEGED}"), format!("--regid={UNPRIVILEGED}"));
    command.args([&*user, &group, "--clear-groups"]).arg(program).env("HOME", "/tmp");
    command
}

/// The file of this name in these directories or the PATH.
pub fn find(name: &str, beside: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = beside.iter().cloned().chain(std::env::split_paths(&path)).chain(["/usr/sbin".into()]);
    dirs.map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Runs to its end; what it printed.
pub fn run(command: &mut Command) -> String {
    try_run(command).unwrap_or_else(|why| panic!("{why}"))
}

pub fn try_run(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text.trim().to_owned());
    }
    Err(format!("{command:?}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// Starts it, with what it prints in a file.
pub fn spawn(command: &mut Command, log: &Path) -> Child {
    let log = std::fs::File::create(log).expect("a file for the log");
    let errors = log.try_clone().expect("the same file");
    let spawned = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
    spawned.unwrap_or_else(|error| panic!("{command:?} does not start: {error}"))
}

/// `kill` with this signal.
pub fn signal(child: &Child, signal: &str) {
    let id = child.id().to_string();
    let status = Command::new("kill").args([signal, &id]).status().expect("the program `kill`");
    assert!(status.success(), "kill {signal} {id}");
}

/// Ends a server and removes its files once this process is gone, in whatever way: what is static is not dropped, so a shell
/// waits for the end of its input, which the result holds open.
pub fn end_with_this_process(server: &Child, dir: &Path) -> Child {
    let script = r#"trap "" INT TERM; read -r line; kill -QUIT "$0"
        for try in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$0" || break; sleep 0.2; done
        kill -KILL "$0"; rm -rf "$1""#;
    let mut shell = Command::new("sh");
    shell.args(["-c", script, &server.id().to_string()]).arg(dir).stdin(Stdio::piped());
    shell.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program `sh`")
}

/// A port for a server, another one each time, below those that the system gives to outgoing connections.
pub fn free_port() -> u16 {
    static NEXT: OnceLock<AtomicU64> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU64::new(RandomState::new().hash_one(())));
    loop {
        let port = 10_000 + (next.fetch_add(1, Ordering::Relaxed) % 20_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
