//! Certificates of a test's own, made by the `openssl` program.
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

/// An authority, and certificates that it signed. The directory goes when it is dropped.
pub struct Authority {
    dir: PathBuf,
}

impl Authority {
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("cloakroom-tls-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let authority = Self { dir: std::env::temp_dir().join(name) };
        std::fs::create_dir_all(&authority.dir).expect("a directory for certificates");
        let request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=Tests \
                       -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign \
                       -keyout ca.key -out ca.crt";
        openssl(&authority.dir, request);
        authority
    }

    /// A certificate for this name, like `IP:127.0.0.1`, good for two days from `begin`, as in `-3 days`.
    pub fn certificate(&self, name: &str, expired: bool) -> (PathBuf, PathBuf) {
        let file = name.replace([':', '.'], "-");
        let request = format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=server -keyout {file}.key -out {file}.csr"
        );
        openssl(&self.dir, &request);
        let extensions =
            format!("subjectAltName={name}\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n");
        std::fs::write(self.dir.join(format!("{file}.ext")), extensions).expect("a file of extensions");
        // Not all versions know dates: one of the past is made by a time to live that is over.
        let days = if expired { "-1" } else { "2" };
        let sign = format!(
            "x509 -req -in {file}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days {days} -extfile {file}.ext -out {file}.crt"
        );
        openssl(&self.dir, &sign);
        (self.dir.join(format!("{file}.crt")), self.dir.join(format!("{file}.key")))
    }

    pub fn root(&self) -> Vec<u8> {
        std::fs::read(self.file("ca.crt")).expect("the certificate of the authority")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn openssl(dir: &Path, args: &str) {
    let output = Command::new("openssl")
        .args(args.split_whitespace())
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .expect("the program `openssl`");
    assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
}
