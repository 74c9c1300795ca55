//! Listing the sessions of an owner, and ending one, all, or all others.
use super::*;

#[tokio::test]
async fn an_owner_stays_through_writes_and_renewals_until_it_is_cleared() {
    for world in World::all().await {
        let store = world.store();
        let visitor = login(&store, None, "alice").await;
        let written = visit(&store, visitor.id.as_deref(), |session| async move {
            assert_eq!(session.owner().as_deref(), Some("alice"));
            session.set("n", 1)
        })
        .await;
        let renewed = renew(&store, &written).await;
        assert_ne!(renewed.id, visitor.id);
        assert_eq!(keys(&store, "alice").await, set(&[&renewed]), "{}", world.name);

        let cleared = visit(&store, renewed.id.as_deref(), |session| async move {
            assert_eq!(session.owner().as_deref(), Some("alice"));
            session.clear_owner()?;
            assert_eq!(session.owner(), None);
            Ok(())
        })
        .await;
        assert!(keys(&store, "alice").await.is_empty(), "{}", world.name);
        let session = store.load(cleared.id.unwrap()).await.unwrap().unwrap();
        assert_eq!((session.owner(), session.get("n")), (None, Some(1)));

        // Given back, it is there again.
        session.set_owner("alice").unwrap();
        session.commit().await.unwrap();
        assert_eq!(keys(&store, "alice").await, HashSet::from([session.key().unwrap()]), "{}", world.name);
        // Another owner's now.
        session.set_owner("bob").unwrap();
        session.commit().await.unwrap();
        assert!(keys(&store, "alice").await.is_empty(), "{}", world.name);
        assert_eq!(keys(&store, "bob").await.len(), 1, "{}", world.name);
        assert_eq!(store.revoke_all("alice").await.unwrap(), 0);
        assert_eq!(store.revoke_all("bob").await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_list_tells_what_a_page_of_devices_needs() {
    for world in World::all().await {
        let store = world.store().max_lifetime(Duration::from_secs(3600));
        let before = SystemTime::now() - Duration::from_millis(1);
        let first = login(&store, None, "alice").await;
        tokio::time::sleep(Duration::from_millis(3)).await;
        let second = login(&store, None, "alice").await;
        let _other = login(&store, None, "bob").await;
        let sessions = store.sessions_of("alice").await.unwrap();
        let order: Vec<_> = sessions.iter().map(cloakroom::SessionInfo::key).collect();
        assert_eq!(order, [first.key().unwrap(), second.key().unwrap()], "{}: the oldest first", world.name);
        for session in &sessions {
            assert!(session.created() >= before && session.created() <= SystemTime::now());
            assert_eq!(session.expires(), session.created() + Duration::from_secs(3600));
            assert_eq!(session.get::<String>("device").as_deref(), Some("a browser"));
            assert_eq!(session.get::<u8>("device"), None);
            assert_eq!(session.get::<String>("none"), None);
            assert!(!format!("{session:?}").contains("a browser"));
        }
        // What a page posts back is a key, and a key is no ticket.
        let posted: SessionKey = sessions[0].key().to_string().parse().unwrap();
        assert!(store.load(posted.to_string()).await.unwrap().is_none());
        assert!(store.revoke(&posted).await.unwrap());
        assert!(store.sessions_of("stranger").await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn revoke_says_whether_it_ended_a_session() {
    for world in World::all().await {
        let store = world.store();
        let visitor = login(&store, None, "alice").await;
        let old = visitor.key().unwrap();
        let renewed = renew(&store, &visitor).await;
        assert!(store.revoke(&old).await.unwrap(), "{}: the old key leads to the session", world.name);
        assert!(!lives(&store, &renewed).await);
        assert!(!store.revoke(&old).await.unwrap() && !store.revoke(&renewed.key().unwrap()).await.unwrap());

        // The session ended under its new key: the tombstone leads nowhere.
        let visitor = login(&store, None, "alice").await;
        let renewed = renew(&store, &visitor).await;
        assert!(store.revoke(&renewed.key().unwrap()).await.unwrap());
        assert!(!store.revoke(&visitor.key().unwrap()).await.unwrap(), "{}", world.name);
        assert!(keys(&store, "alice").await.is_empty());
        assert_eq!(world.len(), 0, "{}: nothing is left", world.name);
    }
}

#[tokio::test]
async fn revoke_all_ends_what_is_the_users_and_nothing_else() {
    for world in World::all().await {
        let store = world.store();
        let visitors = [login(&store, None, "alice").await, login(&store, None, "alice").await];
        let renewed = renew(&store, &login(&store, None, "alice").await).await;
        let other = login(&store, None, "bob").await;
        assert_eq!(store.revoke_all("alice").await.unwrap(), 3, "{}", world.name);
        for visitor in visitors.iter().chain([&renewed]) {
            assert!(!lives(&store, visitor).await, "{}", world.name);
        }
        assert!(lives(&store, &other).await);
        assert_eq!(store.revoke_all("alice").await.unwrap(), 0);
        assert_eq!(store.revoke_all("bob").await.unwrap(), 1);
        assert_eq!(world.len(), 0, "{}: no list, no tombstone", world.name);
    }
}

#[tokio::test]
async fn revoke_others_keeps_one_also_by_its_old_key() {
    for world in World::all().await {
        let store = world.store();
        for renewals in 0..3 {
            let mut kept = login(&store, None, "alice").await;
            let key = kept.key().unwrap();
            for _ in 0..renewals {
                kept = renew(&store, &kept).await;
            }
            let other = renew(&store, &login(&store, None, "alice").await).await;
            let another = login(&store, None, "alice").await;
            assert_eq!(store.revoke_others("alice", &key).await.unwrap(), 2, "{} {renewals}", world.name);
            assert_eq!(keys(&store, "alice").await, set(&[&kept]));
            assert!(lives(&store, &kept).await && !lives(&store, &other).await && !lives(&store, &another).await);
            assert_eq!(store.revoke_all("alice").await.unwrap(), 1);
        }
        // A key that leads nowhere keeps nothing.
        let gone = login(&store, None, "alice").await.key().unwrap();
        assert!(store.revoke(&gone).await.unwrap());
        let _one = login(&store, None, "alice").await;
        assert_eq!(store.revoke_others("alice", &gone).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_handler_ends_the_other_sessions_whatever_else_it_does() {
    for world in World::all().await {
        let store = world.store();
        for case in 0..4 {
            let other = login(&store, None, "alice").await;
            let id = match case {
                0 => None,
                1 => visit(&store, None, |session| async move { session.set("cart", 1) }).await.id,
                _ => login(&store, None, "alice").await.id,
            };
            let changed = visit(&store, id.as_deref(), move |session| async move {
                // A new password, say.
                if case < 3 {
                    session.renew();
                }
                session.set_owner("alice")?;
                let ended = session.revoke_others().await?;
                assert_eq!(ended, 1);
                Ok(())
            })
            .await;
            assert_eq!(changed.status, StatusCode::OK);
            assert!(!lives(&store, &other).await);
            assert_eq!(keys(&store, "alice").await, set(&[&changed]), "{} {case}", world.name);
            assert_eq!(store.revoke_all("alice").await.unwrap(), 1);
        }
        // A session without an owner has no others.
        let visitor = login(&store, None, "alice").await;
        visit(&store, None, |session| async move {
            assert_eq!(session.revoke_others().await?, 0);
            Ok(())
        })
        .await;
        assert!(lives(&store, &visitor).await);
    }
}

#[tokio::test]
async fn a_session_that_was_ended_ends_no_others() {
    for world in World::all().await {
        let store = world.store();
        let thief = login(&store, None, "alice").await;
        let (ender, key) = (store.clone(), thief.key().unwrap());
        let owner = login(&store, None, "alice").await;
        visit(&store, thief.id.as_deref(), move |session| {
            let store = ender.clone();
            async move {
                assert!(store.revoke(&key).await?);
                assert!(matches!(session.revoke_others().await, Err(SessionError::Gone)));
                Ok(())
            }
        })
        .await;
        assert!(lives(&store, &owner).await, "{}", world.name);
    }
}

#[tokio::test]
async fn a_revoked_session_stays_dead_whatever_is_in_flight() {
    for world in World::all().await {
        let store = world.store();
        for how in 0..4 {
            let visitor = login(&store, None, "alice").await;
            let ender = store.clone();
            let late = visit(&store, visitor.id.as_deref(), move |session| {
                let store = ender.clone();
                async move {
                    assert_eq!(store.revoke_all("alice").await?, 1);
                    match how {
                        0 => session.set("late", true)?,
                        1 => session.renew(),
                        2 => session.set_owner("bob")?,
                        _ => session.touch(),
                    }
                    Ok(())
                }
            })
            .await;
            assert_eq!((late.status, &late.id), (StatusCode::OK, &visitor.id), "{} {how}: no cookie", world.name);
            assert!(!lives(&store, &visitor).await);
            assert!(keys(&store, "alice").await.is_empty() && keys(&store, "bob").await.is_empty());
        }
        assert_eq!(world.len(), 0, "{}: nothing is left", world.name);
    }
}
