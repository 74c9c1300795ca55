//! The races of the guide's chapter on users, row by row: in memory with two stores, and on a real Redis with two processes.
use std::{collections::HashSet, time::Duration};

use cloakroom::{BoxedCache, Session, SessionKey, SessionLimitPolicy, SessionStore};

#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "processes share a Redis"))]
mod actor;

use actor::{Act, Actor, Limit, NO_LIMIT, Outcome, Point};

const OWNER: &str = "alice";
const ONE: Limit = (1, SessionLimitPolicy::EndOldest);
const ONE_OR_REFUSED: Limit = (1, SessionLimitPolicy::Refuse);

/// Two sides, and a look at what they made of it.
struct Stage {
    one: Actor,
    other: Actor,
    store: SessionStore<BoxedCache>,
}

impl Stage {
    fn new(one: Actor, other: Actor, cache: BoxedCache) -> Self {
        Self { one, other, store: SessionStore::new(cache).deadline(Duration::from_secs(30)) }
    }

    /// A session of the user, as a cookie.
    async fn logged_in(&self) -> String {
        let session = Session::new();
        session.log_in(OWNER).unwrap();
        self.cookie(&session).await
    }

    /// A session without an owner.
    async fn visitor(&self) -> String {
        let session = Session::new();
        session.set("cart", 1).unwrap();
        self.cookie(&session).await
    }

    async fn cookie(&self, session: &Session) -> String {
        let id = self.store.save(session).await.unwrap();
        // Logins are told apart by their milliseconds.
        tokio::time::sleep(Duration::from_millis(2)).await;
        format!("__Host-id={}", id.as_ref())
    }

    async fn find(&self, cookie: &str) -> Option<Session> {
        self.store.load(cookie.strip_prefix("__Host-id=").unwrap()).await.unwrap()
    }

    async fn key(&self, cookie: &str) -> SessionKey {
        self.find(cookie).await.unwrap().key().unwrap()
    }

    /// These sessions of the user live and are listed, and no others.
    async fn has(&self, cookies: &[&str]) {
        let mut keys = HashSet::new();
        for cookie in cookies {
            let session = self.find(cookie).await.expect("alive");
            assert_eq!(session.owner().as_deref(), Some(OWNER));
            keys.insert(session.key().unwrap());
        }
        let listed: Vec<_> =
            self.store.sessions_of(OWNER).await.unwrap().iter().map(cloakroom::SessionInfo::key).collect();
        assert_eq!(listed.len(), keys.len(), "each once");
        assert_eq!(listed.into_iter().collect::<HashSet<_>>(), keys);
    }

    /// `one` goes up to `point`, `other` does all of its act, and `one` goes on.
    async fn race(&mut self, one: Act, point: Point, other: Act, limit: Limit) -> [Outcome; 2] {
        self.one.begin(one, limit, point).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
        let other = self.other.run(other, limit).await;
        [self.one.end().await, other]
    }
}

fn answered(answer: &str) -> Outcome {
    Outcome { answer: answer.to_owned(), cookie: None }
}

/// Each row of the table is a function of its name.
macro_rules! rows {
    ($($name:ident),* $(,)?) => {
        const ROWS: &[&str] = &[$(stringify!($name)),*];

        mod memory {
            $(#[tokio::test]
            async fn $name() {
                let cache = cloakroom::InMemoryCache::new();
                let boxed = || cloakroom::BoxedCache::new(cache.clone());
                super::$name(super::Stage::new(
                    super::Actor::here(boxed()),
                    super::Actor::here(boxed()),
                    boxed(),
                )).await;
            })*
        }

        #[cfg(feature = "redis")]
        mod redis {
            $(#[tokio::test]
            async fn $name() {
                let server = crate::support::redis_server::RedisServer::start();
                let cache = crate::support::redis_server::patient(&server).await;
                super::$name(super::Stage::new(
                    super::Actor::process(&server.url()),
                    super::Actor::process(&server.url()),
                    cloakroom::BoxedCache::new(cache),
                )).await;
            })*
        }
    };
}

rows! {
    login_not_listed,
    login_listed,
    owner_set_on_a_visitor,
    renewal_not_listed,
    renewal_listed,
    login_again,
    write,
    kept_session_renewed,
    kept_session_logs_in_again,
    revoked_by_a_former_key,
    revoked_while_it_is_renewed,
    log_out_while_it_is_renewed,
    two_logins_end_the_oldest,
    renewal_and_login_with_a_limit_of_one,
    two_logins_refused,
    two_owners_set_and_refused,
}

async fn login_not_listed(mut stage: Stage) {
    let [login, revoked] = stage.race(Act::LogIn(None), Point::List, Act::RevokeAll, NO_LIMIT).await;
    assert_eq!((login.answer.as_str(), revoked), ("200", answered("ended 0")));
    stage.has(&[&login.cookie.unwrap()]).await;
}

async fn login_listed(mut stage: Stage) {
    let before = stage.logged_in().await;
    let [login, revoked] = stage.race(Act::LogIn(None), Point::Count, Act::RevokeAll, ONE).await;
    assert_eq!((login.answer.as_str(), revoked), ("200", answered("ended 2")));
    assert!(stage.find(&before).await.is_none());
    assert!(stage.find(&login.cookie.unwrap()).await.is_none());
    stage.has(&[]).await;
}

async fn owner_set_on_a_visitor(mut stage: Stage) {
    let visitor = stage.visitor().await;
    let set = Act::SetOwner(visitor.clone());
    let [set, revoked] = stage.race(set, Point::Replace, Act::RevokeAll, NO_LIMIT).await;
    assert_eq!((set, revoked), (answered("200"), answered("ended 0")));
    stage.has(&[&visitor]).await;
}

/// The renewal ends with its session, and its browser gets no cookie.
async fn renewal_is_revoked(mut stage: Stage, one: fn(String) -> Act, point: Point) {
    let before = stage.logged_in().await;
    let [renewal, revoked] = stage.race(one(before.clone()), point, Act::RevokeAll, NO_LIMIT).await;
    assert_eq!((renewal, revoked), (answered("200"), answered("ended 1")));
    assert!(stage.find(&before).await.is_none());
    stage.has(&[]).await;
}

async fn renewal_not_listed(stage: Stage) {
    renewal_is_revoked(stage, Act::Renew, Point::List).await;
}

async fn renewal_listed(stage: Stage) {
    renewal_is_revoked(stage, Act::Renew, Point::Replace).await;
}

async fn login_again(stage: Stage) {
    renewal_is_revoked(stage, |cookie| Act::LogIn(Some(cookie)), Point::Replace).await;
}

async fn write(stage: Stage) {
    renewal_is_revoked(stage, Act::Write, Point::Replace).await;
}

async fn kept(mut stage: Stage, one: fn(String) -> Act, point: Point) {
    let (before, other) = (stage.logged_in().await, stage.logged_in().await);
    let keep = Act::RevokeOthers(stage.key(&before).await);
    let [renewal, revoked] = stage.race(one(before.clone()), point, keep, NO_LIMIT).await;
    assert_eq!((renewal.answer.as_str(), revoked), ("200", answered("ended 1")));
    assert!(stage.find(&other).await.is_none() && stage.find(&before).await.is_none());
    stage.has(&[&renewal.cookie.unwrap()]).await;
}

async fn kept_session_renewed(stage: Stage) {
    kept(stage, Act::Renew, Point::Replace).await;
}

async fn kept_session_logs_in_again(stage: Stage) {
    kept(stage, |cookie| Act::LogIn(Some(cookie)), Point::Replace).await;
}

async fn revoked_by_a_former_key(mut stage: Stage) {
    let before = stage.logged_in().await;
    let revoke = Act::Revoke(stage.key(&before).await);
    let [renewal, revoked] = stage.race(Act::Renew(before), Point::Answer, revoke, NO_LIMIT).await;
    assert_eq!((renewal.answer.as_str(), revoked), ("200", answered("ended 1")));
    assert!(stage.find(&renewal.cookie.unwrap()).await.is_none());
    stage.has(&[]).await;
}

async fn revoked_while_it_is_renewed(mut stage: Stage) {
    let before = stage.logged_in().await;
    let revoke = Act::Revoke(stage.key(&before).await);
    let [renewal, revoked] = stage.race(Act::Renew(before), Point::Replace, revoke, NO_LIMIT).await;
    assert_eq!((renewal, revoked), (answered("200"), answered("ended 1")));
    stage.has(&[]).await;
}

async fn log_out_while_it_is_renewed(mut stage: Stage) {
    let before = stage.logged_in().await;
    let out = Act::LogOut(before.clone());
    let [renewal, out] = stage.race(Act::Renew(before), Point::Replace, out, NO_LIMIT).await;
    assert_eq!(renewal, answered("200"));
    assert_eq!((out.answer.as_str(), out.cookie.as_deref()), ("200", Some("__Host-id=")));
    stage.has(&[]).await;
}

async fn two_logins_end_the_oldest(mut stage: Stage) {
    let before = stage.logged_in().await;
    let [older, newer] = stage.race(Act::LogIn(None), Point::List, Act::LogIn(None), ONE).await;
    assert_eq!((older, newer.answer.as_str()), (answered("200"), "200"));
    assert!(stage.find(&before).await.is_none());
    stage.has(&[&newer.cookie.unwrap()]).await;
}

async fn renewal_and_login_with_a_limit_of_one(mut stage: Stage) {
    let before = stage.logged_in().await;
    let again = Act::LogIn(Some(before.clone()));
    let [renewal, login] = stage.race(Act::Renew(before.clone()), Point::Replace, again, ONE).await;
    // One of them moved the session, and the other one came too late.
    assert_eq!((renewal, login.answer.as_str()), (answered("200"), "200"));
    stage.has(&[&login.cookie.unwrap()]).await;
}

async fn two_logins_refused(mut stage: Stage) {
    let [first, second] = stage.race(Act::LogIn(None), Point::Answer, Act::LogIn(None), ONE_OR_REFUSED).await;
    assert_eq!((first.answer.as_str(), second), ("200", answered("500")));
    let cookie = first.cookie.unwrap();
    stage.has(&[&cookie]).await;
    stage.other.run(Act::LogOut(cookie), ONE_OR_REFUSED).await;

    // The one that began first is on the list as the second.
    let [late, early] = stage.race(Act::LogIn(None), Point::List, Act::LogIn(None), ONE_OR_REFUSED).await;
    assert_eq!((late, early.answer.as_str()), (answered("500"), "200"));
    stage.has(&[&early.cookie.unwrap()]).await;
}

async fn two_owners_set_and_refused(mut stage: Stage) {
    let (one, other) = (stage.visitor().await, stage.visitor().await);
    let acts = [one.clone(), other.clone()].map(Act::SetOwner);
    let [first, second] = acts;
    let outcomes = stage.race(first, Point::Replace, second, ONE_OR_REFUSED).await;
    assert_eq!(outcomes, [answered("200"), answered("200")]);
    stage.has(&[&one, &other]).await;
}

#[test]
fn the_guide_has_the_same_rows() {
    let guide = include_str!("../../../src/docs/users.md");
    let table = guide.split_once("# Races").unwrap().1.split_once("\n# ").unwrap().0;
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let rows: Vec<_> = rows.map(|name| name.replace(' ', "_")).collect();
    assert_eq!(rows, ROWS);
}

/// The process of one side; without its variable it is no test.
#[cfg(feature = "redis")]
#[tokio::test]
async fn redis_worker() {
    if let Ok(url) = std::env::var(actor::VARIABLE) {
        actor::serve(&url).await;
    }
}
