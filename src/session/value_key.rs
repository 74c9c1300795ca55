//! Names of values, with or without the type of what stands there.
use std::{fmt, marker::PhantomData};

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
