//! The names of the tables, checked so that they can stand in a statement.
use crate::error::ConfigError;

/// Which tables hold the sessions: the argument of `schema`, and a setting of the builders.
///
/// There are three: the entries, the lists of owners' sessions (`…_lists`), and one row with the number of their layout
/// (`…_schema`). Without a schema they are where the connection's search path or database puts them.
///
/// # Example
/// ```
/// use cloakroom::SqlTables;
///
/// # fn run() -> Result<(), cloakroom::ConfigError> {
/// let tables = SqlTables::named("web_sessions")?.in_schema("app")?; // app.web_sessions, app.web_sessions_lists, …
/// # drop(tables);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlTables {
    schema: Option<String>,
    table: String,
}

/// `…_lists_by_end` has to stay within the 63 bytes that PostgreSQL keeps of a name.
const LONGEST: usize = 40;

impl SqlTables {
    /// A table of this name for the entries; the others are named after it. Default: `cloakroom_sessions`.
    ///
    /// # Errors
    /// When it is not an identifier: letters of ASCII, digits and underscores, no digit in front, 1 to 40 of them.
    pub fn named(table: &str) -> Result<Self, ConfigError> {
        Ok(Self { schema: None, table: identifier("tables", table)? })
    }

    /// In this schema; on MySQL, in this database; on SQLite, in the attached database of this name.
    ///
    /// # Errors
    /// As for [`named`](Self::named).
    pub fn in_schema(mut self, schema: &str) -> Result<Self, ConfigError> {
        self.schema = Some(identifier("schema", schema)?);
        Ok(self)
    }

    /// The name of the entries' table with something behind it, in front of it the schema.
    pub(super) fn qualified(&self, suffix: &str, quote: char) -> String {
        let Self { schema, table } = self;
        match schema {
            Some(schema) => format!("{quote}{schema}{quote}.{quote}{table}{suffix}{quote}"),
            None => format!("{quote}{table}{suffix}{quote}"),
        }
    }

    /// The channel on which changes are told. Tables of one name in several schemas share it, which invalidates too much
    /// and never too little: a schema that comes from the search path is not known here.
    pub(super) fn channel(&self) -> String {
        format!("{}_changes", self.table)
    }

    /// The same without the schema, as the names of indexes are.
    pub(super) fn plain(&self, suffix: &str, quote: char) -> String {
        format!("{quote}{}{suffix}{quote}", self.table)
    }
}

impl Default for SqlTables {
    fn default() -> Self {
        Self { schema: None, table: "cloakroom_sessions".to_owned() }
    }
}

fn identifier(setting: &'static str, name: &str) -> Result<String, ConfigError> {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if letters && (1..=LONGEST).contains(&name.len()) && !name.as_bytes().first().is_some_and(u8::is_ascii_digit) {
        return Ok(name.to_owned());
    }
    Err(ConfigError::new(setting, "a name has 1 to 40 letters of ASCII, digits and underscores, and no digit in front"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_identifiers_are_names() {
        for name in ["a", "_", "Sessions_2", &"a".repeat(40)] {
            assert!(SqlTables::named(name).is_ok(), "{name}");
        }
        for name in ["", "2a", "a-b", "a b", "a\"", "a`", "a;", "é", "a.b", "a\0", &"a".repeat(41)] {
            assert!(SqlTables::named(name).is_err(), "{name}");
            assert!(SqlTables::default().in_schema(name).is_err(), "{name}");
        }
    }

    #[test]
    fn names_are_quoted() {
        let tables = SqlTables::named("t").unwrap().in_schema("s").unwrap();
        assert_eq!(tables.qualified("_lists", '"'), r#""s"."t_lists""#);
        assert_eq!(tables.plain("_due", '`'), "`t_due`");
        assert_eq!(SqlTables::default().qualified("", '"'), r#""cloakroom_sessions""#);
    }
}
