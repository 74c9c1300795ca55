//! An nginx of a test's own, as a shared cache in front of an application. It listens on a Unix socket in its directory.
use std::{
    fs,
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use axum::body::Body;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;

/// Runs until it is dropped, as the user that runs the test.
#[derive(Debug)]
pub struct Nginx {
    dir: PathBuf,
    child: Child,
}

/// The caches in this proxy, by the first segment of the path:
///
/// - `obedient` does what nginx does by itself: it obeys `X-Accel-Expires`, `Cache-Control`, `Vary` and `Set-Cookie`;
/// - `careless` ignores `Vary` and `Set-Cookie`, as many caches do or are told to;
/// - `cdn` obeys targeted fields (RFC 9213) in place of `Cache-Control`, and `must-understand` (RFC 9111, 5.2.2.3), and
///   ignores everything else.
pub const CACHES: [&str; 3] = ["obedient", "careless", "cdn"];

impl Nginx {
    pub fn start(application: SocketAddr) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("cloakroom-nginx-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).expect("a directory for nginx");
        fs::write(dir.join("nginx.conf"), config(&dir, application)).expect("a file for the settings");
        let errors = fs::File::create(dir.join("stderr")).expect("a file for errors");
        let child = Command::new(program())
            .arg("-p")
            .arg(&dir)
            .args(["-e", "error.log", "-c", "nginx.conf"])
            .stdin(Stdio::null())
            .stderr(errors)
            .spawn()
            .expect("nginx starts");
        let mut nginx = Self { dir, child };
        nginx.wait();
        nginx
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }

    fn wait(&mut self) {
        let start = Instant::now();
        while UnixStream::connect(self.socket()).is_err() {
            let ended = !matches!(self.child.try_wait(), Ok(None));
            if ended || start.elapsed() > Duration::from_secs(30) {
                let read = |name| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
                panic!("nginx does not start:\n{}{}", read("stderr"), read("error.log"));
            }
            sleep(Duration::from_millis(3));
        }
    }

    /// One request on a connection of its own.
    pub async fn send(&self, request: Request<Body>) -> Response<String> {
        let stream = tokio::net::UnixStream::connect(self.socket()).await.expect("nginx listens");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
        let connection = tokio::spawn(connection);
        let (parts, body) = sender.send_request(request).await.expect("an answer").into_parts();
        let body = body.collect().await.expect("the body").to_bytes();
        connection.abort();
        Response::from_parts(parts, String::from_utf8_lossy(&body).into_owned())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// One process, so that ending it ends all of it; every path is in its directory.
fn config(dir: &Path, application: SocketAddr) -> String {
    let dir = dir.display();
    format!(
        r#"
daemon off;
master_process off;
pid pid;
error_log error.log warn;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    proxy_cache_path {dir}/cache keys_zone=pages:1m;
    map $upstream_http_surrogate_control$upstream_http_cdn_cache_control$upstream_http_vendor_cdn_cache_control $told {{
        "" $upstream_http_cache_control;
        default $upstream_http_surrogate_control$upstream_http_cdn_cache_control$upstream_http_vendor_cdn_cache_control;
    }}
    map $told $forbidden {{
        "~*must-understand" 0;
        "~*(private|no-store|no-cache)" 1;
        default 0;
    }}
    proxy_cache pages;
    proxy_cache_key $uri;
    proxy_cache_valid 200 10m;
    add_header X-Cache $upstream_cache_status always;
    server {{
        listen unix:{dir}/socket;
        location /obedient/ {{
            proxy_pass http://{application};
        }}
        location /careless/ {{
            proxy_ignore_headers Vary Set-Cookie;
            proxy_pass http://{application};
        }}
        location /cdn/ {{
            proxy_ignore_headers Vary Set-Cookie Cache-Control Expires X-Accel-Expires;
            proxy_no_cache $forbidden;
            proxy_pass http://{application};
        }}
    }}
}}
"#
    )
}

fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Distributions put it where only root has a PATH to.
    let dirs = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")]);
    let found = dirs.map(|dir| dir.join("nginx")).find(|file| file.is_file());
    found.expect("no nginx: `apt-get install nginx-light` or `brew install nginx` gets it")
}
