//! A headless Chromium of a test's own: `fantoccini` drives it over WebDriver, and waits here, so that tests need no runtime.
use std::{
    env, fs,
    future::Future,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use fantoccini::{
    Client, ClientBuilder, Locator,
    cookies::Cookie,
    elements::Element,
    error::CmdError,
    wd::{WebDriverCompatibleCommand, WindowHandle},
};
use http::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::{runtime::Runtime, time::timeout};
use url::{ParseError, Url};

/// Starting a browser takes a while where little else runs at the same speed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs until it is dropped, and leaves nothing behind.
#[derive(Debug)]
pub struct Browser {
    runtime: Runtime,
    client: Client,
    /// Of the browser itself, which the driver started.
    process: Option<u64>,
    /// Ends after the browser.
    _driver: Driver,
}

#[derive(Debug)]
struct Driver {
    child: Child,
    port: u16,
    profile: PathBuf,
    /// Kept open, so that the driver can go on writing.
    stdout: BufReader<ChildStdout>,
}

/// A command that `fantoccini` has no method for, or whose failure it does not report: its path below the session's.
#[derive(Debug)]
struct Other {
    method: Method,
    path: &'static str,
    body: Option<Value>,
}

impl WebDriverCompatibleCommand for Other {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (self.method.clone(), self.body.as_ref().map(Value::to_string))
    }
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
        let capabilities = [("goog:chromeOptions".to_owned(), options)].into_iter().collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = runtime.block_on(async {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            let url = format!("http://127.0.0.1:{}", driver.port);
            timeout(PATIENCE, builder.capabilities(capabilities).connect(&url))
                .await
                .expect("the driver answers in time")
                .expect("a browser")
        });
        let process = client.capabilities().and_then(|capabilities| capabilities.get("goog:processID")?.as_u64());
        Some(Self { runtime, client, process, _driver: driver })
    }

    fn attempt<T>(&self, command: impl Future<Output = Result<T, CmdError>>) -> Result<T, CmdError> {
        self.runtime.block_on(async { timeout(PATIENCE, command).await.expect("the driver answers in time") })
    }

    #[track_caller]
    fn wait<T>(&self, command: impl Future<Output = Result<T, CmdError>>) -> T {
        self.attempt(command).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn goto(&self, url: &str) {
        self.wait(self.client.goto(url));
    }

    pub fn back(&self) {
        self.turning_the_page(|| self.wait(self.client.back()));
    }

    /// Does what leads to another page, and waits until that is there: a click returns before.
    fn turning_the_page(&self, turn: impl FnOnce()) {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let mark = COUNT.fetch_add(1, Ordering::Relaxed);
        self.run(&format!("window.mark = {mark}"));
        turn();
        let script = format!("return window.mark !== {mark} && document.readyState === 'complete'");
        let start = Instant::now();
        // Between two pages there is nothing to ask: that is an error, and not the last word.
        while !self.attempt(self.client.execute(&script, vec![])).is_ok_and(|turned| turned == true) {
            assert!(start.elapsed() < PATIENCE, "still on {}", self.url());
            sleep(Duration::from_millis(5));
        }
    }

    pub fn reload(&self) {
        self.wait(self.client.refresh());
    }

    pub fn url(&self) -> String {
        self.wait(self.client.current_url()).into()
    }

    fn element(&self, selector: &str) -> Element {
        self.wait(self.client.find(Locator::Css(selector)))
    }

    pub fn click(&self, selector: &str) {
        self.wait(self.element(selector).click());
    }

    /// Clicks on what leads to another page.
    pub fn follow(&self, selector: &str) {
        let element = self.element(selector);
        self.turning_the_page(|| self.wait(element.click()));
    }

    pub fn fill(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.wait(element.clear());
        self.wait(element.send_keys(text));
    }

    /// What a person reads there.
    pub fn text(&self, selector: &str) -> String {
        self.wait(self.element(selector).text())
    }

    pub fn run(&self, script: &str) -> Value {
        self.wait(self.client.execute(script, vec![]))
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
    pub fn cookies(&self) -> Vec<Cookie<'static>> {
        self.wait(self.client.get_all_cookies())
    }

    pub fn delete_cookie(&self, name: &str) {
        self.wait(self.client.delete_cookie(name));
    }

    /// The version of the browser, as in `156.0.8078.79`.
    pub fn version(&self) -> String {
        text_of(&self.client.capabilities().expect("what the driver started")["browserVersion"])
    }

    /// The tab that is in front.
    pub fn tab(&self) -> WindowHandle {
        self.wait(self.client.window())
    }

    /// Opens a tab, and brings it to the front.
    pub fn new_tab(&self) -> WindowHandle {
        let tab = self.wait(self.client.new_window(true)).handle;
        self.switch_to(&tab);
        tab
    }

    pub fn switch_to(&self, tab: &WindowHandle) {
        self.wait(self.client.switch_to_window(tab.clone()));
    }

    fn cdp(&self, command: &str, params: &Value) -> Value {
        let body = Some(json!({ "cmd": command, "params": params }));
        self.wait(self.client.issue_cmd(Other { method: Method::POST, path: "/goog/cdp/execute", body }))
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
        let close = self.client.issue_cmd(Other { method: Method::DELETE, path: "", body: None });
        let ended = self.runtime.block_on(async { timeout(PATIENCE, close).await });
        if let (Err(_) | Ok(Err(_)), Some(process)) = (ended, self.process) {
            let _ = Command::new("kill").args(["-9", &process.to_string()]).status();
        }
    }
}

impl Driver {
    fn start(program: &Path) -> Self {
        // Once in a while it ends at its start, where the port that it chose is taken by then.
        let driver = (0..5).find_map(|_| Self::try_start(program));
        driver.unwrap_or_else(|| panic!("{} ended before it listened, five times", program.display()))
    }

    fn try_start(program: &Path) -> Option<Self> {
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
        let stdout = BufReader::new(child.stdout.take().expect("its output"));
        let mut driver = Self { child, port: 0, profile, stdout };
        // It ends in: "… was started successfully on port 12345."
        loop {
            let mut line = String::new();
            if driver.stdout.read_line(&mut line).expect("its output") == 0 {
                return None;
            }
            if let Some((_, rest)) = line.split_once("successfully on port ") {
                driver.port = rest.trim().trim_end_matches('.').parse().expect("a port");
                return Some(driver);
            }
        }
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
