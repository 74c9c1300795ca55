//! What a page of devices is told of a session: since when it is there, since when the user is logged in, when it was written.
use std::time::{Duration, SystemTime};

use cloakroom::{
    Clock, InMemoryCache, Refresh, Session, SessionError, SessionInfo, SessionLayer, SessionStore,
    testing::{Operation, TestCache},
};

use crate::support::web::send;

const OWNER: &str = "alice";
const MINUTE: Duration = Duration::from_secs(60);

struct Stage {
    clock: Clock,
    cache: TestCache<InMemoryCache>,
    layer: SessionLayer<TestCache<InMemoryCache>>,
}

impl Stage {
    fn new() -> Self {
        let clock = Clock::manual();
        let cache = TestCache::new(InMemoryCache::builder().clock(clock.clone()).build());
        let store = SessionStore::new(cache.clone()).clock(clock.clone());
        let layer = SessionLayer::builder(store).refresh(Refresh::OnLoad).build().unwrap();
        Self { clock, cache, layer }
    }

    /// A minute later, a request; the cookie that the browser has afterwards, and the time.
    async fn minute(
        &self,
        cookie: Option<&str>,
        act: fn(&Session) -> Result<(), SessionError>,
    ) -> (String, SystemTime) {
        self.clock.advance(MINUTE);
        let reply = send(&self.layer, cookie, move |session| async move { act(&session).map_or(500, |()| 200) }).await;
        assert_eq!(reply.status, 200);
        (reply.cookie().unwrap_or_else(|| cookie.unwrap().to_owned()), self.clock.now())
    }

    async fn info(&self) -> SessionInfo {
        let mut sessions = self.layer.store().sessions_of(OWNER).await.unwrap();
        assert_eq!(sessions.len(), 1);
        sessions.remove(0)
    }
}

#[tokio::test]
async fn it_tells_the_times_of_the_login_and_of_the_last_write() {
    let stage = Stage::new();
    let (cookie, created) = stage.minute(None, |session| session.set("cart", 1)).await;
    let (cookie, logged_in) = stage.minute(Some(&cookie), |session| session.log_in(OWNER)).await;
    // A clock that was turned forward goes on by itself.
    let is_near = |one: SystemTime, other: SystemTime| {
        one.duration_since(other).unwrap_or_else(|error| error.duration()) < MINUTE / 2
    };
    let check = |info: SessionInfo, created: SystemTime, logged_in: SystemTime, written: SystemTime| {
        assert!(is_near(info.created(), created) && is_near(info.logged_in().unwrap(), logged_in), "{info:?}");
        assert!(is_near(info.last_written(), written), "{info:?}");
    };
    check(stage.info().await, created, logged_in, logged_in);

    // Reading is no write, also where it restarts the idle time; and no other write is caused by it.
    stage.cache.reset_calls();
    let (cookie, _) = stage.minute(Some(&cookie), |session| session.get::<u8>("cart").map_or(Ok(()), |_| Ok(()))).await;
    assert_eq!((stage.cache.calls().total(), stage.cache.calls().of(Operation::GetAndTouch)), (1, 1));
    check(stage.info().await, created, logged_in, logged_in);

    let (cookie, written) = stage.minute(Some(&cookie), |session| session.set("cart", 2)).await;
    check(stage.info().await, created, logged_in, written);
    let renew = |session: &Session| {
        session.renew();
        Ok(())
    };
    let (cookie, renewed) = stage.minute(Some(&cookie), renew).await;
    check(stage.info().await, created, logged_in, renewed);
    // A list that changes nothing writes nothing.
    let (cookie, _) = stage.minute(Some(&cookie), |session| session.set("cart", 2)).await;
    check(stage.info().await, created, logged_in, renewed);
    let (_, again) = stage.minute(Some(&cookie), |session| session.log_in(OWNER)).await;
    check(stage.info().await, created, again, again);
}

#[tokio::test]
async fn a_session_without_an_owner_has_no_bytes_for_it() {
    let stage = Stage::new();
    let length = async |cookie: &str| {
        let store = stage.layer.store();
        let session = store.load(cookie.split_once('=').unwrap().1).await.unwrap().unwrap();
        let entry = cloakroom::Cache::get(&stage.cache, &format!("cloakroom:{}", session.key().unwrap())).await;
        entry.unwrap().unwrap().value.len()
    };
    let (cookie, _) = stage.minute(None, |session| session.set("cart", 1)).await;
    let before = length(&cookie).await;
    stage.minute(Some(&cookie), |session| session.set_owner(OWNER)).await;
    assert!(length(&cookie).await > before);
    stage.minute(Some(&cookie), Session::clear_owner).await;
    assert_eq!(length(&cookie).await, before);
}
