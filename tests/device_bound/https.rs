//! An nginx of a test's own that serves an application over HTTPS, with a certificate of its own.
use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

/// Runs until it is dropped, as the user that runs the test.
pub(crate) struct Https {
    dir: PathBuf,
    child: Child,
    pub(crate) port: u16,
    /// What a browser knows the certificate by: the digest of its public key, in base64.
    pub(crate) pin: String,
}

impl Https {
    /// In front of this application, for these host names.
    pub(crate) fn start(application: SocketAddr, hosts: &[&str]) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("cloakroom-https-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).expect("a directory for nginx");
        let pin = certificate(&dir, hosts);
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
            fs::write(dir.join("nginx.conf"), config(port, application)).expect("a file for the settings");
            let mut child = Command::new(program())
                .arg("-p")
                .arg(&dir)
                .args(["-e", "error.log", "-c", "nginx.conf"])
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("nginx starts");
            if listens(&mut child, port) {
                return Self { dir, child, port, pin };
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("nginx does not start:\n{}", fs::read_to_string(dir.join("error.log")).unwrap_or_default());
    }
}

impl Drop for Https {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Whether it does, before it ends: another process may have taken the port.
fn listens(child: &mut Child, port: u16) -> bool {
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if !matches!(child.try_wait(), Ok(None)) || start.elapsed() > Duration::from_secs(30) {
            return false;
        }
        sleep(Duration::from_millis(3));
    }
    matches!(child.try_wait(), Ok(None))
}

/// Makes one in this directory, and returns its pin.
fn certificate(dir: &Path, hosts: &[&str]) -> String {
    let names: Vec<_> = hosts.iter().map(|host| format!("DNS:{host}")).collect();
    openssl(
        dir,
        &format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=Tests \
             -addext subjectAltName={} -keyout key.pem -out cert.pem",
            names.join(",")
        ),
    );
    openssl(dir, "pkey -in key.pem -pubout -outform der -out key.der");
    STANDARD.encode(Sha256::digest(fs::read(dir.join("key.der")).expect("a public key")))
}

fn openssl(dir: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(dir).output();
    let output = output.expect("no openssl: `apt-get install openssl` gets it");
    assert!(output.status.success(), "openssl {arguments}:\n{}", String::from_utf8_lossy(&output.stderr));
}

/// One process, so that ending it ends all of it; every path is in its directory.
fn config(port: u16, application: SocketAddr) -> String {
    format!(
        "
daemon off;
master_process off;
pid pid;
error_log error.log warn;
events {{ worker_connections 128; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate cert.pem;
        ssl_certificate_key key.pem;
        location / {{
            proxy_pass http://{application};
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-Proto https;
        }}
    }}
}}
"
    )
}

fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Distributions put it where only root has a PATH to.
    let dirs = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")]);
    let found = dirs.map(|dir| dir.join("nginx")).find(|file| file.is_file());
    found.expect("no nginx: `apt-get install nginx-light` or `brew install nginx` gets it")
}
