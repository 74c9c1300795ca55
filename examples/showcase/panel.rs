//! The panel on every page: what the layer did for it.
//!
//! A page is rendered before its session is written. So it leaves a gap, and a middleware outside of the `SessionLayer`
//! fills that when everything is done. A form ends in a redirect: its report waits for the page that comes next.
use std::{
    collections::VecDeque,
    fmt::Write,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use cloakroom::{Session, SessionKey};

use super::{
    pages::escape,
    watch::{Operation, Trace},
};

/// What a page leaves for the panel.
pub(super) const GAP: &str = "<!-- panel -->";
const COOKIE: &str = "__Host-id=";
/// Pages are smaller.
const MAX_PAGE: usize = 1 << 20;

/// Runs inside of the `SessionLayer`, where the session is.
pub(super) async fn inside(request: Request, next: Next) -> Response {
    if let (Some(trace), Some(session)) = (Trace::current(), request.extensions().get::<Session>()) {
        trace.note_session(session.clone());
    }
    next.run(request).await
}

/// Runs outside of it, and so sees the cookie and knows when the session is written.
pub(super) async fn outside(State(reports): State<Reports>, request: Request, next: Next) -> Response {
    let trace = Trace::start();
    let asked = format!("{} {}", request.method(), request.uri().path());
    let came_with_cookie = cookies(request.headers()).any(|cookie| cookie.starts_with(COOKIE));
    let earlier = request.uri().query().and_then(|query| query.split('&').find_map(|pair| reports.take(pair)));

    let mut response = trace.follow(next.run(request)).await;

    let report = Report::new(asked, came_with_cookie, &trace, &response);
    if let Ok(timing) = HeaderValue::try_from(report.server_timing()) {
        response.headers_mut().insert("server-timing", timing);
    }
    let headers = response.headers_mut();
    if let Some(location) = headers.get(header::LOCATION).and_then(|location| location.to_str().ok()) {
        let mark = if location.contains('?') { '&' } else { '?' };
        let location = format!("{location}{mark}{}", reports.keep(report));
        if let Ok(location) = HeaderValue::try_from(location) {
            headers.insert(header::LOCATION, location);
        }
        return response;
    }
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| !kind.as_bytes().starts_with(b"text/html")) {
        return response;
    }
    headers.remove(header::CONTENT_LENGTH);
    let (head, body) = response.into_parts();
    match to_bytes(body, MAX_PAGE).await {
        Ok(bytes) => {
            let page = String::from_utf8_lossy(&bytes).replacen(GAP, &panel(earlier.as_ref(), &report), 1);
            Response::from_parts(head, Body::from(page))
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let fields = headers.get_all(header::COOKIE).into_iter().filter_map(|field| field.to_str().ok());
    fields.flat_map(|field| field.split("; "))
}

/// Reports of forms that wait for the page behind the redirect. They tell nothing of what is in a session.
#[derive(Clone, Default)]
pub(super) struct Reports {
    waiting: Arc<Mutex<VecDeque<(String, Report)>>>,
    count: Arc<AtomicU64>,
}

impl Reports {
    /// Keeps a report, and returns the part of a query that finds it.
    fn keep(&self, report: Report) -> String {
        let query = format!("after={}", self.count.fetch_add(1, Ordering::Relaxed));
        let mut waiting = self.lock();
        waiting.push_back((query.clone(), report));
        if waiting.len() > 100 {
            waiting.pop_front();
        }
        query
    }

    fn take(&self, query: &str) -> Option<Report> {
        let mut waiting = self.lock();
        let place = waiting.iter().position(|(kept, _)| kept == query)?;
        waiting.remove(place).map(|(_, report)| report)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(String, Report)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of the session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SessionOutcome {
    None,
    Created,
    Renewed,
    Written,
    Unchanged,
    Ended,
}

impl SessionOutcome {
    const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Created => "created",
            Self::Renewed => "renewed",
            Self::Written => "written",
            Self::Unchanged => "loaded",
            Self::Ended => "ended",
        }
    }

    const fn sentence(self, came_with_cookie: bool) -> &'static str {
        match self {
            Self::None if came_with_cookie => "the cookie belongs to no live session: a visitor without one",
            Self::None => "a visitor without a session: nothing is stored",
            Self::Created => "something was put into it, so it is stored now",
            Self::Renewed => "a new ID with the same data; the old ID stops working",
            Self::Written => "what changed was written before the answer went out",
            Self::Unchanged => "nothing changed, so nothing was written",
            Self::Ended => "destroyed, everywhere and for good",
        }
    }
}

/// What the layer did for one request.
struct Report {
    asked: String,
    status: StatusCode,
    came_with_cookie: bool,
    outcome: SessionOutcome,
    key: Option<SessionKey>,
    /// `Set-Cookie`, without the ID.
    cookie: Option<String>,
    operations: Vec<Operation>,
    total: Duration,
}

impl Report {
    fn new(asked: String, came_with_cookie: bool, trace: &Trace, response: &Response) -> Self {
        let total = trace.elapsed();
        let operations = trace.operations();
        let mut sent = response.headers().get_all(header::SET_COOKIE).into_iter();
        let cookie = sent.find_map(|cookie| redacted(cookie.to_str().ok()?));
        let removed = cookie.as_ref().is_some_and(|cookie| cookie.contains("Max-Age=0"));
        let wrote = operations.iter().any(|operation| operation.name == "replace" && operation.answer == "written");
        let (before, after) = trace.keys();
        let outcome = match (before, after) {
            _ if removed => SessionOutcome::Ended,
            (None, None) => SessionOutcome::None,
            (None, Some(_)) => SessionOutcome::Created,
            (before, after) if before != after => SessionOutcome::Renewed,
            _ if wrote => SessionOutcome::Written,
            _ => SessionOutcome::Unchanged,
        };
        let key = after.filter(|_| outcome != SessionOutcome::Ended);
        Self { asked, status: response.status(), came_with_cookie, outcome, key, cookie, operations, total }
    }

    fn in_cache(&self) -> Duration {
        self.operations.iter().map(|operation| operation.took).sum()
    }

    /// For the developer tools, and for the button that plays many tabs.
    fn server_timing(&self) -> String {
        let names: Vec<_> = self.operations.iter().map(|operation| operation.name).collect();
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        format!("cache;dur={:.3};desc=\"{}\", total;dur={:.3}", ms(self.in_cache()), names.join(" "), ms(self.total))
    }

    fn html(&self) -> String {
        let (word, sentence) = (self.outcome.word(), self.outcome.sentence(self.came_with_cookie));
        let status = self.status.as_u16();
        let asked = escape(&self.asked);
        let cookie = match &self.cookie {
            Some(cookie) => format!("sent <code>{}</code>", escape(cookie)),
            None if self.outcome == SessionOutcome::None => "not sent".into(),
            None if self.came_with_cookie => "not sent: the browser has the right one".into(),
            None => "not sent".into(),
        };
        let (total, in_cache) = (micros(self.total), micros(self.in_cache()));
        let time = format!("{total} in total, {in_cache} in the cache");
        format!(
            "<section class=report><h3><code>{asked}</code> <small>{status}</small></h3><dl>\
             <dt>Session</dt><dd><b class=\"chip {word}\">{word}</b> {sentence}</dd>\
             <dt>Cookie</dt><dd>{cookie}</dd>\
             <dt>Cache</dt><dd>{}</dd>\
             <dt>Time</dt><dd>{time}{}</dd></dl></section>",
            self.operations_html(),
            self.timeline(),
        )
    }

    fn operations_html(&self) -> String {
        if self.operations.is_empty() {
            return "was not asked".into();
        }
        let mut rows = String::new();
        for Operation { name, answer, took, .. } in &self.operations {
            let took = micros(*took);
            let _ = write!(rows, "<li><code>{name}</code> {answer} <small>{took}</small></li>");
        }
        format!("<ol class=operations>{rows}</ol>")
    }

    /// The request as a bar, with the operations of the cache where they happened.
    fn timeline(&self) -> String {
        let percent = |time: Duration| 100.0 * time.as_secs_f64() / self.total.as_secs_f64().max(1e-9);
        let mut bars = String::new();
        for Operation { begin, took, .. } in &self.operations {
            let (x, width) = (percent(*begin), percent(*took).max(0.8));
            let _ = write!(bars, "<rect class=busy x=\"{x:.1}%\" width=\"{width:.1}%\" height=8 rx=1 />");
        }
        format!("<svg class=timeline height=8 aria-hidden=true><rect width=\"100%\" height=8 rx=4 />{bars}</svg>")
    }
}

/// The session cookie as it goes out, if this is one, without what only the browser may know.
fn redacted(cookie: &str) -> Option<String> {
    let (id, attributes) = cookie.strip_prefix(COOKIE)?.split_once(';')?;
    let dots = if id.is_empty() { "" } else { "••••••••" };
    Some(format!("{COOKIE}{dots};{attributes}"))
}

fn micros(time: Duration) -> String {
    match time.as_micros() {
        few @ 0..10_000 => format!("{few} µs"),
        many => format!("{} ms", many / 1000),
    }
}

fn panel(earlier: Option<&Report>, report: &Report) -> String {
    let ticket = match &report.key {
        Some(key) => {
            let number = key.as_str().get(..8).unwrap_or_default();
            format!(
                "<p class=ticket><small>Session key</small> <b>{number}…</b> \
                 <small>what the cache and the logs know; only your cookie has the ID</small></p>"
            )
        }
        None => "<p class=\"ticket blank\"><small>Session key</small> <b>none</b> <small>nothing is stored</small></p>"
            .into(),
    };
    let earlier = earlier.map(Report::html).unwrap_or_default();
    format!("<aside class=panel><h2>What the layer did</h2>{ticket}{earlier}{}</aside>", report.html())
}
