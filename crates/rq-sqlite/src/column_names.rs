//! Names of columns that SQLite would draw at random: found, so that they never reach the database.
//!
//! The columns of `CREATE TABLE … AS SELECT`, of views and of subqueries must have different names.
//! SQLite numbers equal ones (`a`, `a:1`, … `a:4`), and where those are taken it draws a number from
//! its own generator while it compiles. A view keeps the name it was given when a connection first used
//! it, so seeding the generator would not make them equal on all nodes. They are kept out instead:
//!
//! - a table made from a SELECT is looked at when it has been made, and unmade if it has such a name;
//! - a statement that writes what `pragma_table_info` says is refused while a view has one.
//!
//! In the results of reads such names may differ from node to node, as everywhere with SQLite.

use std::collections::HashMap;

use rq_sql::{ErrorKind, Origin, SqlError};
use rusqlite::Connection;

use crate::error::SqliteError;

/// With as many columns of one name a name may have been drawn: the numbers before are all taken.
const COLUMNS_OF_ONE_NAME: usize = 5;

/// The numbers that are not drawn.
const NUMBERS: [&str; 4] = ["1", "2", "3", "4"];

/// The column name of table `table` that may have been drawn, without its number.
///
/// # Errors
/// A failure of this node.
pub(crate) fn drawn_in_table(
    writer: &Connection,
    table: &str,
) -> Result<Option<String>, SqliteError> {
    let mut columns = writer.prepare("SELECT name FROM pragma_table_info(?1, 'main')")?;
    let names = columns.query_map([table], |row| row.get(0))?;
    Ok(drawn_among(&names.collect::<Result<Vec<String>, _>>()?))
}

/// The name of a view with a column name that may have been drawn.
///
/// # Errors
/// A failure of this node.
pub(crate) fn view_with_drawn(writer: &Connection) -> Result<Option<String>, SqliteError> {
    let mut views = writer.prepare("SELECT name FROM sqlite_schema WHERE type = 'view'")?;
    let views: Vec<String> = views.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for view in views {
        match drawn_in_table(writer, &view) {
            Ok(None) => {}
            Ok(Some(_)) => return Ok(Some(view)),
            Err(error) if error.is_local() => return Err(error),
            // A view that cannot be read has no names either.
            Err(_) => {}
        }
    }
    Ok(None)
}

/// The failure of a table whose columns would be named so.
pub(crate) fn drawn_for_table(name: &str) -> SqlError {
    refused(format!(
        "CREATE TABLE … AS SELECT with too many columns named {name}: SQLite would draw names for some at \
         random; name them with AS"
    ))
}

/// The failure of a statement that writes names of columns while a view has such names.
pub(crate) fn drawn_for_view(view: &str) -> SqlError {
    refused(format!(
        "writing what pragma_table_info says while view {view} has too many columns of one name: SQLite \
         draws names for some at random; name them with AS"
    ))
}

fn refused(message: String) -> SqlError {
    SqlError { kind: ErrorKind::Sql, message, origin: Origin::Write }
}

/// Looks for a group of columns with one name, of which some have a number that SQLite would not have
/// given in order. Judges alike whatever was drawn.
fn drawn_among(names: &[String]) -> Option<String> {
    let mut groups: HashMap<String, (usize, bool)> = HashMap::new();
    for name in names {
        let (base, number) = split(name);
        let (columns, may_be_drawn) = groups.entry(base.to_ascii_lowercase()).or_default();
        *columns += 1;
        *may_be_drawn |= number.is_some_and(|number| !NUMBERS.contains(&number));
    }
    let is_drawn = |name: &&String| {
        groups
            .get(&split(name).0.to_ascii_lowercase())
            .is_some_and(|(columns, may_be_drawn)| *columns >= COLUMNS_OF_ONE_NAME && *may_be_drawn)
    };
    names.iter().find(is_drawn).map(|name| split(name).0.to_owned())
}

/// A name without the number behind its last colon, and the number.
fn split(name: &str) -> (&str, Option<&str>) {
    let base = name.trim_end_matches(|last: char| last.is_ascii_digit());
    match base.strip_suffix(':') {
        Some(before) => (before, Some(&name[base.len()..])),
        None => (name, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::plain_connection;

    fn drawn(select: &str) -> Option<String> {
        let connection = plain_connection();
        connection.execute_batch(&format!("CREATE TABLE t AS SELECT {select}")).unwrap();
        drawn_in_table(&connection, "t").unwrap()
    }

    #[test]
    fn names_are_found_exactly_where_sqlite_draws_them() {
        for numbered in [
            "1 AS a, 2 AS a, 3 AS a, 4 AS a, 5 AS a",
            r#"1 AS "a:10", 2 AS "a:20", 3 AS "a:30", 4 AS a"#,
            "1, 2, 3, 4, 5, 6",
        ] {
            assert_eq!(drawn(numbered), None, "{numbered}");
        }
        for random in [
            "1 AS a, 2 AS a, 3 AS A, 4 AS a, 5 AS a, 6 AS a",
            r#"1 AS "a:4", 2 AS "a:1", 3 AS "a:2", 4 AS "a:3", 5 AS "a:4""#,
            "* FROM (SELECT 1 AS a, 2 AS a, 3 AS a, 4 AS a, 5 AS a, 6 AS a)",
        ] {
            assert_eq!(drawn(random).as_deref(), Some("a"), "{random}");
        }
        let nameless = r#"1 AS ":4", 2 AS ":1", 3 AS ":2", 4 AS ":3", 5 AS ":4""#;
        assert_eq!(drawn(nameless).as_deref(), Some(""), "{nameless}");
    }

    #[test]
    fn the_verdict_does_not_depend_on_what_was_drawn() {
        for number in ["0", "5", "17", "4294967295"] {
            let names = ["a:4", "a:1", "a:2", "a:3", &format!("a:{number}")].map(str::to_owned);
            assert_eq!(drawn_among(&names).as_deref(), Some("a"), "{number}");
        }
    }
}
