//! The example of users and permissions, request by request.
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode, header},
};
use tower::ServiceExt;

use crate::programs::permissions::{Users, app};

/// A browser as far as it matters here: it keeps the session cookie.
struct Browser {
    app: Router,
    cookie: Option<String>,
}

struct Page {
    status: StatusCode,
    location: Option<String>,
    set_cookie: Option<String>,
    text: String,
}

impl Browser {
    fn new(app: &Router) -> Self {
        Self { app: app.clone(), cookie: None }
    }

    async fn signed_in(app: &Router, name: &str) -> Self {
        let mut browser = Self::new(app);
        let page = browser.sign_in(name, PASSWORD, "/reports").await;
        assert_eq!((page.status, page.location.as_deref()), (StatusCode::SEE_OTHER, Some("/reports")));
        browser
    }

    async fn sign_in(&mut self, name: &str, password: &str, next: &str) -> Page {
        self.post("/sign-in", &format!("name={name}&password={password}&next={next}")).await
    }

    async fn get(&mut self, path: &str) -> Page {
        self.send(Request::get(path), Body::empty()).await
    }

    async fn post(&mut self, path: &str, form: &str) -> Page {
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.send(request, Body::from(form.to_owned())).await
    }

    async fn send(&mut self, mut request: axum::http::request::Builder, body: Body) -> Page {
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let response = self.app.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let field = |name| head.headers.get(name).map(|value: &header::HeaderValue| value.to_str().unwrap().to_owned());
        let (location, set_cookie) = (field(header::LOCATION), field(header::SET_COOKIE));
        if let Some(cookie) = &set_cookie {
            let removed = cookie.contains("Max-Age=0");
            self.cookie = (!removed).then(|| cookie.split(';').next().unwrap().to_owned());
        }
        let text = String::from_utf8(to_bytes(body, usize::MAX).await.unwrap().to_vec()).unwrap();
        Page { status: head.status, location, set_cookie, text }
    }
}

const PASSWORD: &str = "correct";

fn users() -> Users {
    Users::new(PASSWORD).unwrap()
}

#[tokio::test]
async fn pages_that_need_a_login_lead_to_the_sign_in_and_back() {
    let app = app(&users());
    let mut browser = Browser::new(&app);
    for path in ["/reports", "/reports/new"] {
        let page = browser.get(path).await;
        assert_eq!((page.status, page.location), (StatusCode::SEE_OTHER, Some(format!("/sign-in?next={path}"))));
        assert_eq!(page.set_cookie, None, "nothing is stored for a visitor");
    }
    assert_eq!(browser.post("/password", "old=x&new=y").await.status, StatusCode::SEE_OTHER);
    let page = browser.get("/sign-in?next=/reports/new").await;
    assert!(page.text.contains("name=next value=\"/reports/new\""), "{}", page.text);

    for (name, password) in [("editor", "wrong"), ("stranger", PASSWORD), ("stranger", "")] {
        let page = browser.sign_in(name, password, "/reports").await;
        assert_eq!((page.status, page.set_cookie), (StatusCode::UNAUTHORIZED, None), "{name}");
    }
    let page = browser.sign_in("editor", PASSWORD, "/reports/new").await;
    assert_eq!(page.location.as_deref(), Some("/reports/new"));
    assert_eq!(browser.get("/reports").await.text, "reports for editor\n");

    browser.post("/sign-out", "").await;
    assert_eq!(browser.get("/reports").await.status, StatusCode::SEE_OTHER);
    assert_eq!(browser.get("/nowhere").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_sign_in_leads_to_no_other_site() {
    let app = app(&users());
    for next in ["//evil.example", "https://evil.example", "/%5Cevil.example", "/%09/evil.example", "", "%2F%2Fevil"] {
        let page = Browser::new(&app).sign_in("reader", PASSWORD, next).await;
        assert_eq!(page.location.as_deref(), Some("/reports"), "{next}");
    }
    let page = Browser::new(&app).get("/sign-in?next=/%22%3E%3Cscript%3E").await;
    assert!(page.text.contains("value=\"/&quot;>"), "{}", page.text);
}

#[tokio::test]
async fn a_permission_is_asked_for() {
    let app = app(&users());
    let mut reader = Browser::signed_in(&app, "reader").await;
    let page = reader.get("/reports/new").await;
    assert_eq!(
        (page.status, page.text.as_str()),
        (StatusCode::FORBIDDEN, "reader lacks the permission reports.write\n")
    );
    assert_eq!(reader.get("/reports").await.text, "reports for reader\n");
    let mut editor = Browser::signed_in(&app, "editor").await;
    assert_eq!(editor.get("/reports/new").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_new_password_ends_all_sessions_but_the_one_that_set_it() {
    let app = app(&users());
    let mut desk = Browser::signed_in(&app, "reader").await;
    let mut phone = Browser::signed_in(&app, "reader").await;
    let mut editor = Browser::signed_in(&app, "editor").await;
    assert_eq!(desk.post("/password", "old=wrong&new=other").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(phone.get("/reports").await.status, StatusCode::OK);

    let before = desk.cookie.clone();
    let page = desk.post("/password", &format!("old={PASSWORD}&new=other")).await;
    assert_eq!(page.text, "changed, 1 other sessions ended\n");
    assert_ne!(desk.cookie, before, "a new ID");
    assert_eq!(desk.get("/reports").await.status, StatusCode::OK);
    assert_eq!(phone.get("/reports").await.status, StatusCode::SEE_OTHER);
    assert_eq!(editor.get("/reports").await.status, StatusCode::OK);
    assert_eq!(phone.sign_in("reader", PASSWORD, "/").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(phone.sign_in("reader", "other", "/").await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_password_that_was_changed_elsewhere_ends_the_session_at_its_next_request() {
    let users = users();
    let app = app(&users);
    let mut reader = Browser::signed_in(&app, "reader").await;
    let mut editor = Browser::signed_in(&app, "editor").await;
    // The table alone changes; the sessions are not touched.
    users.set_password(1, "by an administrator".into()).await.unwrap();
    let page = reader.get("/reports").await;
    assert_eq!(page.status, StatusCode::SEE_OTHER);
    assert!(page.set_cookie.unwrap().contains("Max-Age=0"), "the session was destroyed");
    assert_eq!(editor.get("/reports").await.status, StatusCode::OK);
}
