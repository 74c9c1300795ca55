//! Sessions without HTTP: for a worker, a bot, a protocol of your own.
//!
//! ```sh
//! cargo run --example store
//! ```
use cloakroom::{Cache, InMemoryCache, Session, SessionError, SessionId, SessionStore};

/// One side makes a session and hands out its ID: a secret that gives access to the session.
async fn check_in<C: Cache>(store: &SessionStore<C>) -> Result<SessionId, SessionError> {
    let session = Session::new();
    session.set("user", "alice")?;
    session.set("items", ["umbrella"])?;
    store.save(&session).await
}

/// Another side, or another machine on the same cache, loads it by the ID and changes it.
async fn add_item<C: Cache>(store: &SessionStore<C>, id: &str, item: &str) -> Result<Option<usize>, SessionError> {
    let Some(session) = store.load(id).await? else { return Ok(None) };
    let item = item.to_owned();
    let items = session.update("items", move |items: Option<Vec<String>>| {
        let mut items = items.unwrap_or_default();
        items.push(item.clone());
        items
    })?;
    // A session that was loaded without a layer is written by this commit alone.
    session.commit().await?;
    Ok(Some(items.len()))
}

/// What happened, line by line.
pub async fn run<C: Cache>(store: &SessionStore<C>) -> Result<Vec<String>, SessionError> {
    let mut story = Vec::new();
    let id = check_in(store).await?;
    // The ID prints as nothing that opens anything.
    story.push(format!("saved as {id:?}"));

    let items = add_item(store, id.as_ref(), "hat").await?;
    story.push(format!("with a hat: {} items", items.unwrap_or(0)));

    if let Some(session) = store.load(&id).await? {
        let (user, items) = (session.get::<String>("user"), session.get::<Vec<String>>("items"));
        story.push(format!("loaded: {} with {}", user.unwrap_or_default(), items.unwrap_or_default().join(", ")));
    }

    store.destroy(&id).await?;
    story.push(match add_item(store, id.as_ref(), "gloves").await? {
        Some(_) => "destroyed, and still there".into(),
        None => "destroyed: gone everywhere".into(),
    });
    Ok(story)
}

#[tokio::main]
async fn main() -> Result<(), SessionError> {
    for line in run(&SessionStore::new(InMemoryCache::new())).await? {
        println!("{line}");
    }
    Ok(())
}
