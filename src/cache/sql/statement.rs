//! Statements with named places, and the values that go into them.
use std::sync::Arc;

use super::tables::SqlTables;

/// Names of places in a statement: `@key`, `@version` ….
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Key,
    Value,
    Version,
    Expected,
    Now,
    Idle,
    End,
    Due,
    After,
    Member,
    Limit,
    /// As many places as there are members: `@members`.
    Nth(usize),
}

/// What the places of a statement stand for. What a statement does not name is not looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arguments<'a> {
    pub(crate) key: &'a str,
    pub(crate) value: &'a [u8],
    pub(crate) version: i64,
    pub(crate) expected: i64,
    /// Milliseconds since 1970 by the clock of this process.
    pub(crate) now: i64,
    pub(crate) idle: i64,
    pub(crate) end: i64,
    pub(crate) due: i64,
    pub(crate) after: i64,
    pub(crate) member: &'a str,
    pub(crate) limit: i64,
    pub(crate) members: &'a [String],
}

/// A value as a statement takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Argument<'a> {
    Int(i64),
    Bytes(&'a [u8]),
}

impl<'a> Arguments<'a> {
    pub(crate) fn at(&self, place: Place) -> Argument<'a> {
        match place {
            Place::Key => Argument::Bytes(self.key.as_bytes()),
            Place::Value => Argument::Bytes(self.value),
            Place::Member => Argument::Bytes(self.member.as_bytes()),
            // Statements have places for round numbers of members: the last one fills them up.
            Place::Nth(number) => {
                let member = self.members.get(number).or(self.members.last());
                Argument::Bytes(member.map(String::as_bytes).unwrap_or_default())
            }
            Place::Version => Argument::Int(self.version),
            Place::Expected => Argument::Int(self.expected),
            Place::Now => Argument::Int(self.now),
            Place::Idle => Argument::Int(self.idle),
            Place::End => Argument::Int(self.end),
            Place::Due => Argument::Int(self.due),
            Place::After => Argument::Int(self.after),
            Place::Limit => Argument::Int(self.limit),
        }
    }
}

/// How a database writes places and names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    pub(crate) quote: char,
    pub(crate) places: PlaceStyle,
    /// What stands for `{clock}`: milliseconds since 1970 by the database's clock, at this moment.
    pub(crate) clock: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlaceStyle {
    /// `$1`
    Dollar,
    /// `?`, a value for each
    Mark,
    /// `?1`
    NumberedMark,
    /// The values themselves: numbers, and bytes in hexadecimal, so that nothing in them can end a literal.
    Literal,
}

/// An hour: rows are looked at by the sweep at the end of the hour in which they are due.
pub(crate) const BUCKET_MS: i64 = 3_600_000;

/// The largest value that is written.
pub(crate) const LARGEST_VALUE: usize = 8 << 20;

/// The value of an entry; nothing where it is larger, so that what was planted in a row is not read into memory.
const VALUE: &str = "CASE WHEN octet_length(value) <= {largest} THEN value ELSE substr(value, 1, 0) END";

/// Whether an entry is live, by its own clock for idle time and by ours for the end.
const LIVE: &str = "(end_ms > @now AND touched_ms + idle_ms > {clock})";

/// One statement, ready to be sent.
#[derive(Clone, Debug)]
pub struct Statement {
    parts: Vec<(String, Option<Place>)>,
    places: Vec<Place>,
    literal: bool,
    text: Arc<str>,
}

impl Statement {
    pub(crate) fn new(template: &str, style: Style, tables: &SqlTables) -> Self {
        Self::with_members(template, style, tables, 0)
    }

    pub(crate) fn with_members(template: &str, style: Style, tables: &SqlTables, members: usize) -> Self {
        let text = written(template, style, tables);
        let mut parts = Vec::new();
        let mut pieces = text.split('@');
        let mut before = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let end = piece.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(piece.len());
            let (name, after) = piece.split_at(end);
            if name == "members" {
                for number in 0..members {
                    parts.push((std::mem::take(&mut before), Some(Place::Nth(number))));
                    before.push_str(", ");
                }
                before.truncate(before.len().saturating_sub(2));
            } else if let Some(place) = named(name) {
                parts.push((std::mem::take(&mut before), Some(place)));
            }
            before.push_str(after);
        }
        parts.push((before, None));
        Self::numbered(parts, style.places)
    }

    fn numbered(parts: Vec<(String, Option<Place>)>, style: PlaceStyle) -> Self {
        let (mut text, mut places) = (String::new(), Vec::new());
        for (before, place) in &parts {
            text.push_str(before);
            let Some(place) = *place else { continue };
            let known = places.iter().position(|other| *other == place);
            let number = match (style, known) {
                (PlaceStyle::Dollar | PlaceStyle::NumberedMark, Some(known)) => known + 1,
                _ => {
                    places.push(place);
                    places.len()
                }
            };
            match style {
                PlaceStyle::Dollar => text.push_str(&format!("${number}")),
                PlaceStyle::NumberedMark => text.push_str(&format!("?{number}")),
                PlaceStyle::Mark | PlaceStyle::Literal => text.push('?'),
            }
        }
        Self { parts, places, literal: style == PlaceStyle::Literal, text: text.into() }
    }

    /// With places, to be prepared; without places where literals stand for them.
    pub(crate) fn text(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }

    pub(crate) const fn is_literal(&self) -> bool {
        self.literal
    }

    pub(crate) fn arguments<'a>(&'a self, values: &'a Arguments<'a>) -> impl Iterator<Item = Argument<'a>> {
        self.places.iter().map(|place| values.at(*place))
    }

    /// With the values in it.
    pub(crate) fn in_full(&self, values: &Arguments<'_>) -> String {
        let mut text = String::with_capacity(self.text.len() + 2 * values.value.len() + 200);
        for (before, place) in &self.parts {
            text.push_str(before);
            match place.map(|place| values.at(place)) {
                Some(Argument::Int(number)) => text.push_str(&format!("({number})::bigint")),
                Some(Argument::Bytes(bytes)) => {
                    text.push_str("decode('");
                    for byte in bytes {
                        for digit in [byte >> 4, byte & 15] {
                            text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
                        }
                    }
                    text.push_str("', 'hex')");
                }
                None => {}
            }
        }
        text
    }
}

/// The same with names of tables and what this database calls things; places stay.
pub(crate) fn written(template: &str, style: Style, tables: &SqlTables) -> String {
    template
        .replace("{live}", LIVE)
        .replace("{value}", VALUE)
        .replace("{largest}", &LARGEST_VALUE.to_string())
        .replace("{entries}", &tables.qualified("", style.quote))
        .replace("{lists}", &tables.qualified("_lists", style.quote))
        .replace("{schema}", &tables.qualified("_schema", style.quote))
        .replace("{entries_due}", &tables.plain("_due", style.quote))
        .replace("{lists_page}", &tables.plain("_lists_page", style.quote))
        .replace("{lists_end}", &tables.plain("_lists_end", style.quote))
        // On SQLite an index is in a schema, and its table in the same one.
        .replace("{entries_due in schema}", &tables.qualified("_due", style.quote))
        .replace("{lists_page in schema}", &tables.qualified("_lists_page", style.quote))
        .replace("{lists_end in schema}", &tables.qualified("_lists_end", style.quote))
        .replace("{entries without schema}", &tables.plain("", style.quote))
        .replace("{lists without schema}", &tables.plain("_lists", style.quote))
        .replace("{clock}", style.clock)
        .replace("{bucket}", &BUCKET_MS.to_string())
}

fn named(name: &str) -> Option<Place> {
    Some(match name {
        "key" => Place::Key,
        "value" => Place::Value,
        "version" => Place::Version,
        "expected" => Place::Expected,
        "now" => Place::Now,
        "idle" => Place::Idle,
        "end" => Place::End,
        "due" => Place::Due,
        "after" => Place::After,
        "member" => Place::Member,
        "limit" => Place::Limit,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(template: &str, places: PlaceStyle) -> Statement {
        let style = Style { quote: '"', places, clock: "clock()" };
        Statement::with_members(template, style, &SqlTables::named("t").unwrap(), 2)
    }

    #[test]
    fn places_are_numbered_as_each_database_does() {
        let template = "SELECT @now FROM {entries} WHERE a = @key AND b = @now AND c IN (@members)";
        let text = |places| statement(template, places).text().to_string();
        assert_eq!(text(PlaceStyle::Dollar), r#"SELECT $1 FROM "t" WHERE a = $2 AND b = $1 AND c IN ($3, $4)"#);
        assert_eq!(text(PlaceStyle::NumberedMark), r#"SELECT ?1 FROM "t" WHERE a = ?2 AND b = ?1 AND c IN (?3, ?4)"#);
        assert_eq!(text(PlaceStyle::Mark), r#"SELECT ? FROM "t" WHERE a = ? AND b = ? AND c IN (?, ?)"#);
        let members = ["x".to_owned()];
        let values = Arguments { key: "k", now: -5, members: &members, ..Arguments::default() };
        let statement = statement(template, PlaceStyle::Mark);
        let arguments: Vec<_> = statement.arguments(&values).collect();
        let (now, x) = (Argument::Int(-5), Argument::Bytes(b"x"));
        assert_eq!(arguments, [now, Argument::Bytes(b"k"), now, x, x]);
    }

    #[test]
    fn nothing_in_a_value_ends_a_literal() {
        let values = Arguments { key: "'; DROP\\", version: i64::MIN, ..Arguments::default() };
        let text = statement("a = @key AND b = @version", PlaceStyle::Literal).in_full(&values);
        assert_eq!(text, "a = decode('273b2044524f505c', 'hex') AND b = (-9223372036854775808)::bigint");
    }
}
