//! A headless Chromium of a test's own, driven over WebDriver (<https://www.w3.org/TR/webdriver2/>).
use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// How WebDriver names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// Starting a browser takes a while where little else runs at the same speed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs until it is dropped, and leaves nothing behind.
#[derive(Debug)]
pub struct Browser {
    driver: Driver,
    /// The path of the session, as in `/session/0123`.
    session: String,
    /// Of the browser itself, which the driver started.
    process: Option<u64>,
}

#[derive(Debug)]
struct Driver {
    child: Child,
    port: u16,
    profile: PathBuf,
    /// Kept open, so that the driver can go on writing.
    _stdout: BufReader<ChildStdout>,
}

impl Browser {
    /// `None` only where `CLOAKROOM_NO_BROWSER=1` says that there is no browser to be had.
    ///
    /// # Panics
    /// Without a browser, saying how to get one.
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// With more arguments on its command line.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn start_with(more: &[String]) -> Option<Self> {
        if env::var("CLOAKROOM_NO_BROWSER").is_ok_and(|value| value == "1") {
            eprintln!("skipped: CLOAKROOM_NO_BROWSER=1");
            return None;
        }
        let chromium = program(&["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]);
        let driver = Driver::start(&program(&["chromedriver", "chromium.chromedriver"]));
        let profile = format!("--user-data-dir={}", driver.profile.display());
        let args = [
            "--headless",
            // The pages are our own, and the sandbox does not start for root or in most containers.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--lang=en-US",
            &profile,
        ];
        let args: Vec<_> = args.into_iter().chain(more.iter().map(String::as_str)).collect();
        let options = json!({ "binary": chromium, "args": args });
        let capabilities = json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": options } } });
        let started = driver.send("POST", "/session", &capabilities).expect("the driver answers");
        let id = started["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {started}"));
        let process = started["capabilities"]["goog:processID"].as_u64();
        Some(Self { session: format!("/session/{id}"), process, driver })
    }

    fn try_command(&self, method: &str, path: &str, body: &Value) -> Value {
        self.driver.send(method, &format!("{}{path}", self.session), body).expect("the driver answers")
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.try_command(method, path, body);
        assert!(answer["error"].is_null(), "{method} {path}: {} {}", answer["error"], answer["message"]);
        answer
    }

    fn get(&self, path: &str) -> Value {
        self.command("GET", path, &Value::Null)
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.command("POST", path, body)
    }

    pub fn goto(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    pub fn back(&self) {
        self.turning_the_page(|| self.post("/back", &json!({})));
    }

    /// Does what leads to another page, and waits until that is there: a click returns before.
    fn turning_the_page(&self, turn: impl FnOnce() -> Value) {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let mark = COUNT.fetch_add(1, Ordering::Relaxed);
        self.run(&format!("window.mark = {mark}"));
        turn();
        let script = format!("return window.mark !== {mark} && document.readyState === 'complete'");
        let script = json!({ "script": script, "args": [] });
        let start = Instant::now();
        // Between two pages there is nothing to ask: that is an error, and not the last word.
        while self.try_command("POST", "/execute/sync", &script) != true {
            assert!(start.elapsed() < PATIENCE, "still on {}", self.url());
            sleep(Duration::from_millis(5));
        }
    }

    pub fn reload(&self) {
        self.post("/refresh", &json!({}));
    }

    pub fn url(&self) -> String {
        text_of(&self.get("/url"))
    }

    fn element(&self, selector: &str) -> String {
        let found = self.post("/element", &json!({ "using": "css selector", "value": selector }));
        format!("/element/{}", found[ELEMENT].as_str().expect("an element"))
    }

    pub fn click(&self, selector: &str) {
        let element = self.element(selector);
        self.post(&format!("{element}/click"), &json!({}));
    }

    /// Clicks on what leads to another page.
    pub fn follow(&self, selector: &str) {
        let element = self.element(selector);
        self.turning_the_page(|| self.post(&format!("{element}/click"), &json!({})));
    }

    pub fn fill(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.post(&format!("{element}/clear"), &json!({}));
        self.post(&format!("{element}/value"), &json!({ "text": text }));
    }

    /// What a person reads there.
    pub fn text(&self, selector: &str) -> String {
        text_of(&self.get(&format!("{}/text", self.element(selector))))
    }

    pub fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits until `selector` reads as `wanted` says. In one step, as a script may replace the element meanwhile.
    pub fn wait_for(&self, selector: &str, wanted: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let text = self.run(&format!("return document.querySelector({selector:?})?.innerText ?? ''"));
            let text = text_of(&text);
            if wanted(&text) {
                return text;
            }
            assert!(start.elapsed() < PATIENCE, "{selector} still reads: {text}");
            sleep(Duration::from_millis(20));
        }
    }

    /// The cookies of the page, with their attributes.
    pub fn cookies(&self) -> Vec<Value> {
        self.get("/cookie").as_array().cloned().expect("a list of cookies")
    }

    pub fn delete_cookie(&self, name: &str) {
        self.command("DELETE", &format!("/cookie/{name}"), &Value::Null);
    }

    /// The version of the browser, as in `156.0.8078.79`.
    pub fn version(&self) -> String {
        text_of(&self.cdp("Browser.getVersion", &json!({}))["product"])
    }

    /// The tab that is in front.
    pub fn tab(&self) -> String {
        text_of(&self.get("/window"))
    }

    /// Opens a tab, and brings it to the front.
    pub fn new_tab(&self) -> String {
        let tab = text_of(&self.post("/window/new", &json!({ "type": "tab" }))["handle"]);
        self.switch_to(&tab);
        tab
    }

    pub fn switch_to(&self, tab: &str) {
        self.post("/window", &json!({ "handle": tab }));
    }

    fn cdp(&self, command: &str, params: &Value) -> Value {
        self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": params }))
    }

    /// The whole page, at this width, as a PNG; returns how far it has to be scrolled sideways.
    pub fn screenshot(&self, width: u32, file: &Path) -> i64 {
        let mobile = width < 600;
        let metrics = json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": mobile });
        self.cdp("Emulation.setDeviceMetricsOverride", &metrics);
        let picture = self.cdp("Page.captureScreenshot", &json!({ "captureBeyondViewport": true, "format": "png" }));
        let root = "document.documentElement";
        let overflow = self.run(&format!("return {root}.scrollWidth - {width}")).as_i64().expect("a number");
        self.cdp("Emulation.clearDeviceMetricsOverride", &json!({}));
        let bytes = STANDARD.decode(text_of(&picture["data"])).expect("base64");
        fs::create_dir_all(file.parent().expect("a directory")).expect("a directory for screenshots");
        fs::write(file, bytes).expect("a screenshot");
        overflow
    }

    pub fn dark(&self, dark: bool) {
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.cdp("Emulation.setEmulatedMedia", &json!({ "features": features }));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser; where it does not answer, its process is ended here.
        let ended = self.driver.send("DELETE", &self.session, &Value::Null);
        if let (Err(_), Some(process)) = (ended, self.process) {
            let _ = Command::new("kill").args(["-9", &process.to_string()]).status();
        }
    }
}

impl Driver {
    fn start(program: &Path) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("cloakroom-browser-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let profile = env::temp_dir().join(name);
        fs::create_dir_all(&profile).expect("a directory for the profile");
        let mut child = Command::new(program)
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
        let mut stdout = BufReader::new(child.stdout.take().expect("its output"));
        // It ends in: "… was started successfully on port 12345."
        let port = loop {
            let mut line = String::new();
            let read = stdout.read_line(&mut line).expect("its output");
            assert!(read > 0, "{} ended before it listened", program.display());
            if let Some((_, rest)) = line.split_once("successfully on port ") {
                break rest.trim().trim_end_matches('.').parse().expect("a port");
            }
        };
        Self { child, port, profile, _stdout: stdout }
    }

    /// One request on a connection of its own; returns the `value` of the answer.
    fn send(&self, method: &str, path: &str, body: &Value) -> io::Result<Value> {
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.port,
            body.len()
        )?;
        let mut stream = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(number) = line.strip_prefix("content-length:") {
                length = number.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
            }
        }
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer)?;
        let mut answer: Value = serde_json::from_slice(&answer)?;
        Ok(answer["value"].take())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.profile);
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

fn program(names: &[&str]) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<_> = env::split_paths(&path).collect();
    let found = names.iter().find_map(|name| dirs.iter().map(|dir| dir.join(name)).find(|file| file.is_file()));
    found.unwrap_or_else(|| {
        panic!(
            "none of {names:?} is on PATH: `tests/run` installs them, and so does `apt-get install chromium \
             chromium-driver`; where no browser can be had, CLOAKROOM_NO_BROWSER=1 leaves these tests out"
        )
    })
}
