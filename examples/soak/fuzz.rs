//! The fuzz targets, one after the other.
use std::process::Stdio;

use tokio::process::Command;

use super::shared::Failure;

/// Runs each fuzz target for so many seconds. Needs `cargo install cargo-fuzz`; the first build takes minutes.
pub async fn fuzz(seconds: u64) -> Result<(), Failure> {
    let mut version = Command::new("cargo");
    version.args(["fuzz", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    if !version.status().await?.success() {
        return Err("cargo-fuzz is missing: `cargo install cargo-fuzz`".into());
    }
    for target in TARGETS {
        std::fs::create_dir_all(format!(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/{}"), target))?;
        let mut fuzz = Command::new("cargo");
        fuzz.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz"));
        // The sanitizers are features of a nightly compiler; with this a stable one has them as well.
        fuzz.env("RUSTC_BOOTSTRAP", "1").args(["fuzz", "run", target]);
        fuzz.args([format!("corpus/{target}"), format!("seeds/{target}")]);
        let status = fuzz.args(["--", &format!("-max_total_time={seconds}")]).status().await?;
        if !status.success() {
            return Err(format!("{target}: {status}").into());
        }
    }
    Ok(())
}

const TARGETS: [&str; 2] = ["cookie_header", "record"];
