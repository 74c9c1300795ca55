//! Reading and changing the values of a session, under keys with or without the type of the value.
use std::{fmt, marker::PhantomData};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::Session;
use crate::{
    Value,
    error::SessionError,
    events,
    record::{Run, check_value_key, json},
};

impl Session {
    fn raw(&self, key: &str) -> Option<Bytes> {
        self.access().get(key)
    }

    /// The value under `key`; `None` if there is none, or one of another type: an event then names the key, and
    /// [`try_get`](Self::try_get) returns the error.
    ///
    /// # Example
    /// ```
    /// # let session = cloakroom::Session::new();
    /// session.set("n", 1)?;
    /// let n: u64 = session.get("n").unwrap_or(0);
    /// assert_eq!(n, 1);
    /// assert_eq!(session.get::<bool>("n"), None);
    /// # Ok::<(), cloakroom::SessionError>(())
    /// ```
    pub fn get<T: DeserializeOwned>(&self, key: impl IntoKey<T>) -> Option<T> {
        let key = key.name();
        self.decode(key).unwrap_or_else(|_| {
            events::undecodable(key);
            None
        })
    }

    /// The value under `key`; `None` if there is none.
    ///
    /// # Errors
    /// [`Decode`](SessionError::Decode) if the value is of another type. It stays as it is.
    pub fn try_get<T: DeserializeOwned>(&self, key: impl IntoKey<T>) -> Result<Option<T>, SessionError> {
        self.decode(key.name())
    }

    fn decode<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, SessionError> {
        self.raw(key).map(|value| json::decode(key, &value)).transpose()
    }

    /// Puts a value under `key`. If all changes of a request leave the session as it was loaded, nothing is written.
    ///
    /// # Errors
    /// [`Encode`](SessionError::Encode) for what would not come back as it is: nested deeper than 64 levels, floats that
    /// are not finite, whole numbers of more than 64 bits, an option within an option, maps without string keys.
    /// [`TooLarge`](SessionError::TooLarge) and [`KeyTooLong`](SessionError::KeyTooLong) over the limits;
    /// [`Closed`](SessionError::Closed) after the response's commit. The value that was there stays in each case.
    pub fn set<T: Serialize>(&self, key: impl IntoKey<T>, value: T) -> Result<(), SessionError> {
        self.set_ref(key, &value)
    }

    /// As [`set`](Self::set), without taking the value.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn set_ref<T: Serialize>(&self, key: impl IntoKey<T>, value: &T) -> Result<(), SessionError> {
        let key = key.name();
        check_value_key(key)?;
        let value = json::encode(value, self.max_bytes())?;
        self.open()?.changes().set(key, Some(value));
        Ok(())
    }

    /// Replaces the value under `key` by what `f` makes of it, atomically, and returns that.
    ///
    /// If another request commits first, `f` runs again on the value that it left: N requests that add one add N. The
    /// value that this call returned may then be older than the one that is stored; [`update_now`](Self::update_now) returns
    /// the one that is stored. So `f` should do nothing but compute. It is kept until the commit, at most 1,000 of them in a
    /// session; on a handle that was detached or loaded by ID, a closure that holds that handle keeps it alive until then.
    ///
    /// # Errors
    /// As [`try_get`](Self::try_get) and [`set`](Self::set); [`TooManyUpdates`](SessionError::TooManyUpdates).
    ///
    /// # Example
    /// ```
    /// # let session = cloakroom::Session::new();
    /// let item = "umbrella".to_owned();
    /// let cart = session.update("cart", move |cart: Option<Vec<String>>| {
    ///     let mut cart = cart.unwrap_or_default();
    ///     cart.push(item.clone());
    ///     cart
    /// })?;
    /// assert_eq!(cart, ["umbrella"]);
    /// # Ok::<(), cloakroom::SessionError>(())
    /// ```
    pub fn update<T, F>(&self, key: impl IntoKey<T>, f: F) -> Result<T, SessionError>
    where
        T: Serialize + DeserializeOwned + 'static,
        F: FnMut(Option<T>) -> T + Send + 'static,
    {
        let key = key.name();
        check_value_key(key)?;
        let limit = self.max_bytes();
        let mut f = f;
        loop {
            let seen = self.open()?.get(key);
            // No lock is held while a closure of the user runs.
            let new = f(seen.as_deref().map(|json| json::decode(key, json)).transpose()?);
            let value = json::encode(&new, limit)?;
            let mut state = self.open()?;
            if state.get(key) != seen {
                continue;
            }
            if self.inner.engine.is_none() {
                // Without a store there is no commit that would run it again.
                state.changes().set(key, Some(value));
            } else {
                state.changes().update(key, Some(value), replayed(key.into(), f, limit))?;
            }
            return Ok(new);
        }
    }

    /// Changes the value under `key` in place, atomically, and returns it; a value that is not there yet is the default.
    ///
    /// As [`update`](Self::update) otherwise.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    ///
    /// # Example
    /// ```
    /// # let session = cloakroom::Session::new();
    /// let cart = session.modify("cart", |cart: &mut Vec<String>| cart.push("umbrella".into()))?;
    /// assert_eq!(cart, ["umbrella"]);
    /// # Ok::<(), cloakroom::SessionError>(())
    /// ```
    pub fn modify<T, F>(&self, key: impl IntoKey<T>, mut f: F) -> Result<T, SessionError>
    where
        T: Serialize + DeserializeOwned + Default + 'static,
        F: FnMut(&mut T) + Send + 'static,
    {
        self.update(key, move |value: Option<T>| {
            let mut value = value.unwrap_or_default();
            f(&mut value);
            value
        })
    }

    /// Takes the value under `key` away, and returns it as this handle saw it.
    ///
    /// After the response's commit it does nothing, and an event at error level reports that.
    pub fn remove(&self, key: impl AsRef<str>) -> Option<Value> {
        let key = key.as_ref();
        let mut state = self.open_or_report("remove")?;
        let value = state.get(key);
        state.changes().set(key, None);
        drop(state);
        json::decode(key, &value?).ok()
    }

    /// Takes the value under `key` away, and returns it as this handle saw it: a message that is shown once, say. Two
    /// requests at the same time may both see it; with [`take_now`](Self::take_now) one of them does.
    ///
    /// # Errors
    /// [`Decode`](SessionError::Decode) if it is of another type: then it stays.
    /// [`Closed`](SessionError::Closed) after the response's commit.
    pub fn take<T: DeserializeOwned>(&self, key: impl IntoKey<T>) -> Result<Option<T>, SessionError> {
        let key = key.name();
        loop {
            let seen = self.open()?.get(key);
            let taken = seen.as_deref().map(|json| json::decode(key, json)).transpose()?;
            let mut state = self.open()?;
            if state.get(key) == seen {
                state.changes().set(key, None);
                return Ok(taken);
            }
        }
    }

    /// Takes all values away, also those that another request sets meanwhile. The session itself stays, empty, until it is
    /// [destroyed](Self::destroy).
    ///
    /// After the response's commit it does nothing, and an event at error level reports that.
    pub fn clear(&self) {
        if let Some(mut state) = self.open_or_report("clear") {
            state.changes().clear();
        }
    }

    /// Whether there is a value under `key`.
    #[must_use]
    pub fn contains_key(&self, key: impl AsRef<str>) -> bool {
        self.raw(key.as_ref()).is_some()
    }

    /// The value keys, sorted.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.access().with_values(|values| values.map(|pair| String::from_utf8_lossy(pair.key).into_owned()).collect())
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.access().with_values(|values| values.count())
    }

    /// Whether there are no values.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.access().with_values(|values| values.next().is_none())
    }
}

/// An `update` closure on JSON, as a replay runs it.
fn replayed<T, F>(key: Box<str>, mut f: F, limit: usize) -> Run
where
    T: Serialize + DeserializeOwned + 'static,
    F: FnMut(Option<T>) -> T + Send + 'static,
{
    Box::new(move |old| json::encode(&f(old.map(|json| json::decode(&key, json)).transpose()?), limit).map(Some))
}

/// The name of a value together with its type: a typo or a wrong type does not compile.
///
/// Works wherever a `&str` does.
///
/// # Example
/// ```
/// use cloakroom::{Key, Session};
///
/// const CART: Key<Vec<String>> = Key::new("cart");
///
/// let session = Session::new();
/// session.set(CART, vec!["umbrella".into()])?;
/// let cart = session.get(CART).unwrap_or_default(); // a Vec<String>
/// assert_eq!(cart, ["umbrella"]);
/// assert!(session.contains_key(CART));
/// # Ok::<(), cloakroom::SessionError>(())
/// ```
pub struct Key<T> {
    name: &'static str,
    // A key holds no value: it is as free to move between threads as its name.
    value: PhantomData<fn() -> T>,
}

impl<T> Key<T> {
    /// The key of this name. At most 256 bytes are accepted by [`Session::set`](crate::Session::set).
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, value: PhantomData }
    }

    /// The name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T> AsRef<str> for Key<T> {
    fn as_ref(&self) -> &str {
        self.name
    }
}

impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.name).finish()
    }
}

/// What names a value of type `T`: a string names values of all types, a [`Key`] of its own.
pub trait IntoKey<T>: sealed::Sealed {
    /// The name.
    fn name(&self) -> &str;
}

impl<T> IntoKey<T> for &str {
    fn name(&self) -> &str {
        self
    }
}

impl<T> IntoKey<T> for &String {
    fn name(&self) -> &str {
        self
    }
}

impl<T> IntoKey<T> for String {
    fn name(&self) -> &str {
        self
    }
}

impl<T> IntoKey<T> for Key<T> {
    fn name(&self) -> &str {
        self.name
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for &str {}
    impl Sealed for &String {}
    impl Sealed for String {}
    impl<T> Sealed for super::Key<T> {}
}
