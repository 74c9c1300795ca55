//! The limit of sessions of an owner.
use super::*;

#[tokio::test]
async fn the_limit_ends_the_oldest() {
    for world in World::all().await {
        let store = world.store().max_sessions_per_owner(2);
        let mut visitors = Vec::new();
        for _ in 0..4 {
            // As a visitor who had a session before the login, and as one who had none.
            let id = if visitors.len() % 2 == 0 {
                None
            } else {
                visit(&store, None, |session| async move { session.set("cart", 1) }).await.id
            };
            let visitor = login(&store, id.as_deref(), "alice").await;
            assert_eq!(visitor.status, StatusCode::OK);
            visitors.push(visitor);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(keys(&store, "alice").await, set(&[&visitors[2], &visitors[3]]), "{}", world.name);
        // A renewal is no new session.
        let renewed = renew(&store, &visitors[3]).await;
        assert_eq!(keys(&store, "alice").await, set(&[&visitors[2], &renewed]), "{}", world.name);
        let again = login(&store, renewed.id.as_deref(), "alice").await;
        assert_eq!(keys(&store, "alice").await, set(&[&visitors[2], &again]), "{}", world.name);
    }
}

#[tokio::test]
async fn the_limit_refuses_if_it_is_told_to() {
    for world in World::all().await {
        let store = world.store().max_sessions_per_owner(1).session_limit_policy(SessionLimitPolicy::Refuse);
        let first = login(&store, None, "alice").await;
        for renews in [true, false] {
            let visitor = visit(&store, None, |session| async move { session.set("cart", 1) }).await;
            let refused = visit(&store, visitor.id.as_deref(), move |session| async move {
                if renews {
                    session.renew();
                }
                session.set_owner("alice")?;
                let refused = session.commit().await;
                assert!(matches!(refused, Err(SessionError::TooManySessions)), "{renews} {refused:?}");
                // The handler can say so, and go on without.
                session.clear_owner()
            })
            .await;
            assert_eq!(refused.status, StatusCode::OK);
            assert_eq!(keys(&store, "alice").await, set(&[&first]), "{}", world.name);
        }
        let refused = login(&store, None, "alice").await;
        assert_eq!((refused.status, refused.id), (StatusCode::INTERNAL_SERVER_ERROR, None));
        assert!(store.revoke(&first.key().unwrap()).await.unwrap());
        assert_eq!(login(&store, None, "alice").await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn of_two_new_sessions_at_the_same_moment_one_is_left() {
    for world in World::all().await {
        for (round, policy) in
            [SessionLimitPolicy::EndOldest, SessionLimitPolicy::Refuse].into_iter().cycle().take(20).enumerate()
        {
            let owner = ["a", "b"][round % 2];
            let store = world.store().max_sessions_per_owner(1).session_limit_policy(policy);
            world.cache.yield_always(true);
            tokio::join!(login(&store, None, owner), login(&store, None, owner));
            world.cache.yield_always(false);
            let left = keys(&store, owner).await.len();
            let expected = if policy == SessionLimitPolicy::EndOldest { 1..=1 } else { 0..=1 };
            assert!(expected.contains(&left), "{} {policy:?}: {left}", world.name);
            store.revoke_all(owner).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_login_sent_twice_is_one_session_for_the_limit() {
    for world in World::all().await {
        let store = world.store().max_sessions_per_owner(2);
        let other = login(&store, None, "alice").await;
        let visitor = visit(&store, None, |session| async move { session.set("cart", 1) }).await;
        let again = login(&store, visitor.id.as_deref(), "alice");
        let gate = world.cache.hold(Operation::Replace);
        let first = tokio::spawn({
            let (store, id) = (store.clone(), visitor.id.clone());
            async move { login(&store, id.as_deref(), "alice").await }
        });
        gate.arrived().await;
        let again = again.await;
        gate.open();
        first.await.unwrap();
        assert_eq!(keys(&store, "alice").await, set(&[&other, &again]), "{}", world.name);
    }
}
