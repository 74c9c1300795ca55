//! `Clear-Site-Data` with the response that ends a session: when it is sent, and what a real browser does with it.
use cloakroom::{Cache, InMemoryCache, Session, SessionLayer, SessionStore};

use crate::support::web::{self, Reply, send};

fn store() -> SessionStore<InMemoryCache> {
    SessionStore::new(InMemoryCache::new())
}

async fn started<C: Cache>(layer: &SessionLayer<C>) -> String {
    web::start(layer, "alice").await
}

async fn request<C: Cache>(layer: &SessionLayer<C>, cookie: Option<&str>, act: fn(&Session) -> u16) -> Reply {
    send(layer, cookie, move |session| async move { act(&session) }).await
}

fn field(reply: &Reply) -> Option<&str> {
    Some(reply.headers.get("clear-site-data")?.to_str().unwrap())
}

fn log_out(session: &Session) -> u16 {
    session.destroy();
    200
}

#[tokio::test]
async fn it_goes_with_a_destroy_and_with_nothing_else_and_only_if_it_is_asked_for() {
    let asked = SessionLayer::builder(store()).clear_site_data(true).build().unwrap();
    let cookie = started(&asked).await;
    for act in [
        |_: &Session| 200,
        |session: &Session| session.set("n", 2).map_or(500, |()| 200),
        |session: &Session| {
            session.renew();
            500
        },
    ] {
        assert_eq!(field(&request(&asked, Some(&cookie), act).await), None);
    }
    let reply = request(&asked, Some(&cookie), log_out).await;
    assert_eq!(field(&reply), Some("\"cache\", \"cookies\""));
    assert!(reply.headers["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    // A visitor without a session has nothing to end.
    assert_eq!(field(&request(&asked, None, log_out).await), None);
    // A destroy is done with a failed answer, too.
    let cookie = started(&asked).await;
    let failed = request(&asked, Some(&cookie), |session| {
        session.destroy();
        500
    });
    assert_eq!(field(&failed.await), Some("\"cache\", \"cookies\""));

    let default = SessionLayer::new(store());
    let cookie = started(&default).await;
    assert_eq!(field(&request(&default, Some(&cookie), log_out).await), None);
    // Browsers ignore it where a cookie need not be secure.
    let insecure =
        SessionLayer::builder(store()).clear_site_data(true).secure(false).cookie_name("id").build().unwrap();
    let cookie = started(&insecure).await;
    assert_eq!(field(&request(&insecure, Some(&cookie), log_out).await), None);
}

#[tokio::test]
async fn a_logout_that_failed_clears_nothing() {
    use cloakroom::{
        CacheErrorKind,
        testing::{Operation, TestCache},
    };
    let cache = TestCache::new(InMemoryCache::new());
    let layer = SessionLayer::builder(SessionStore::new(cache.clone())).clear_site_data(true).build().unwrap();
    let cookie = started(&layer).await;
    cache.fail(Operation::Delete, CacheErrorKind::Unavailable);
    let reply = request(&layer, Some(&cookie), log_out).await;
    assert_eq!((reply.status, field(&reply)), (503, None));
}

#[cfg(feature = "axum")]
mod in_a_browser {
    use axum::{Router, http::header, response::Html, routing::get};
    use cloakroom::{Session, SessionError, SessionLayer};

    use crate::support::browser::Browser;

    const LINKS: &str = "<title>x</title><a id=in href=/in>in</a> <a id=out href=/out>out</a>";

    fn app(clear: bool) -> Router {
        async fn log_in(
            session: Session,
        ) -> Result<([(header::HeaderName, &'static str); 1], Html<&'static str>), SessionError> {
            session.log_in("alice")?;
            Ok(([(header::SET_COOKIE, "language=en; Path=/")], Html(LINKS)))
        }
        async fn log_out(session: Session) -> Html<&'static str> {
            session.destroy();
            Html(LINKS)
        }
        let layer = SessionLayer::builder(super::store()).clear_site_data(clear).build().unwrap();
        Router::new().route("/in", get(log_in)).route("/out", get(log_out)).layer(layer)
    }

    fn serve(app: Router) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://localhost:{}", listener.local_addr().unwrap().port());
        listener.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), app).await.unwrap();
            });
        });
        url
    }

    #[test]
    fn a_browser_drops_its_other_cookies() {
        let Some(browser) = Browser::start() else { return };
        for clear in [false, true] {
            let url = serve(app(clear));
            browser.goto(&format!("{url}/in"));
            let names = |browser: &Browser| {
                let mut names: Vec<_> = browser.cookies().iter().map(|cookie| cookie.name().to_owned()).collect();
                names.sort();
                names
            };
            assert_eq!(names(&browser), ["__Host-id", "language"]);
            browser.follow("#out");
            assert_eq!(names(&browser), if clear { vec![] } else { vec!["language".to_owned()] }, "asked for: {clear}");
        }
    }
}
