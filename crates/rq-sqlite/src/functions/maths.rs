//! The maths functions of SQLite, computed by `libm` in Rust.
//!
//! The C library's results differ in the last bits between CPUs and versions; these do not. Names,
//! argument rules and NULL rules are SQLite's: what is not a number, or text that does not look like
//! one, gives NULL; integers pass through `ceil`, `floor` and `trunc` unchanged; a result that is
//! not a number becomes NULL. (`abs`, `round`, `sign`, `min`, `max` are SQLite's own and exact.)

use std::{
    f64::consts::PI,
    ffi::{CStr, c_int, c_void},
    ptr,
};

use rusqlite::{Connection, ffi};

use super::{Scalar, define};
use crate::error::SqliteError;

/// A function and how it is called.
enum Maths {
    /// Of one number.
    One(fn(f64) -> f64),
    /// Of two numbers.
    Two(fn(f64, f64) -> f64),
    /// Of one number, integers unchanged.
    Round(fn(f64) -> f64),
    /// A logarithm of a positive number.
    Log(fn(f64) -> f64),
    /// A logarithm to a base given first.
    LogToBase,
    /// π.
    Pi,
}

static FUNCTIONS: &[(&CStr, Maths)] = &[
    (c"acos", Maths::One(libm::acos)),
    (c"acosh", Maths::One(libm::acosh)),
    (c"asin", Maths::One(libm::asin)),
    (c"asinh", Maths::One(libm::asinh)),
    (c"atan", Maths::One(libm::atan)),
    (c"atan2", Maths::Two(libm::atan2)),
    (c"atanh", Maths::One(libm::atanh)),
    (c"ceil", Maths::Round(libm::ceil)),
    (c"ceiling", Maths::Round(libm::ceil)),
    (c"cos", Maths::One(libm::cos)),
    (c"cosh", Maths::One(libm::cosh)),
    (c"degrees", Maths::One(degrees)),
    (c"exp", Maths::One(libm::exp)),
    (c"floor", Maths::Round(libm::floor)),
    (c"ln", Maths::Log(libm::log)),
    (c"log", Maths::Log(libm::log10)),
    (c"log", Maths::LogToBase),
    (c"log10", Maths::Log(libm::log10)),
    (c"log2", Maths::Log(libm::log2)),
    (c"mod", Maths::Two(libm::fmod)),
    (c"pi", Maths::Pi),
    (c"pow", Maths::Two(libm::pow)),
    (c"power", Maths::Two(libm::pow)),
    (c"radians", Maths::One(radians)),
    (c"sin", Maths::One(libm::sin)),
    (c"sinh", Maths::One(libm::sinh)),
    (c"sqrt", Maths::One(libm::sqrt)),
    (c"tan", Maths::One(libm::tan)),
    (c"tanh", Maths::One(libm::tanh)),
    (c"trunc", Maths::Round(libm::trunc)),
];

/// Installs the maths functions on a connection of any kind.
///
/// # Errors
/// Whatever SQLite says.
pub(crate) fn install(connection: &Connection) -> Result<(), SqliteError> {
    for (name, maths) in FUNCTIONS {
        let (arguments, function): (c_int, Scalar) = match maths {
            Maths::Pi => (0, pi),
            Maths::One(_) | Maths::Round(_) | Maths::Log(_) => (1, of_one),
            Maths::Two(_) | Maths::LogToBase => (2, of_two),
        };
        let data = ptr::from_ref(maths).cast_mut().cast::<c_void>();
        define(connection, name, arguments, ffi::SQLITE_DETERMINISTIC, data, function, None)?;
    }
    Ok(())
}

fn degrees(radians: f64) -> f64 {
    radians * (180.0 / PI)
}

fn radians(degrees: f64) -> f64 {
    degrees * (PI / 180.0)
}

/// What SQLite takes for a number.
#[derive(Clone, Copy)]
enum Number {
    Integer(i64),
    Real(f64),
}

impl Number {
    #[expect(clippy::cast_precision_loss, reason = "as SQLite converts")]
    fn real(self) -> f64 {
        match self {
            Self::Integer(integer) => integer as f64,
            Self::Real(real) => real,
        }
    }
}

unsafe extern "C" fn pi(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    _: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: SQLite passes the context of the running call.
    unsafe { ffi::sqlite3_result_double(context, PI) };
}

unsafe extern "C" fn of_one(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: defined by `install` with one argument.
    let Some(argument) = number(unsafe { *arguments }) else { return };
    // SAFETY: defined by `install` with an entry of `FUNCTIONS`.
    let result = match (unsafe { maths_of(context) }, argument) {
        (Maths::Round(_), Number::Integer(integer)) => {
            // SAFETY: SQLite passes the context of the running call.
            unsafe { ffi::sqlite3_result_int64(context, integer) };
            return;
        }
        (Maths::One(function) | Maths::Round(function), number) => function(number.real()),
        (Maths::Log(function), number) if number.real() > 0.0 => function(number.real()),
        _ => return,
    };
    // SAFETY: SQLite passes the context of the running call; NaN becomes NULL.
    unsafe { ffi::sqlite3_result_double(context, result) };
}

unsafe extern "C" fn of_two(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: defined by `install` with two arguments.
    let Some(first) = number(unsafe { *arguments }) else { return };
    // SAFETY: as above.
    let place = unsafe { arguments.add(1) };
    // SAFETY: as above.
    let second = unsafe { *place };
    // SAFETY: defined by `install` with an entry of `FUNCTIONS`.
    let result = match unsafe { maths_of(context) } {
        Maths::Two(function) => {
            let Some(second) = number(second) else { return };
            function(first.real(), second.real())
        }
        Maths::LogToBase => {
            let base = libm::log(first.real());
            // SQLite converts the second argument whatever it is: "8 apples" is 8.
            // SAFETY: the argument is valid during the call.
            let of = unsafe { ffi::sqlite3_value_double(second) };
            // A base that is not above 1 or not a number has no logarithm here.
            if first.real() <= 0.0 || base.is_nan() || base <= 0.0 || of <= 0.0 {
                return;
            }
            libm::log(of) / base
        }
        _ => return,
    };
    // SAFETY: SQLite passes the context of the running call; NaN becomes NULL.
    unsafe { ffi::sqlite3_result_double(context, result) };
}

/// The entry of [`FUNCTIONS`] that is being called.
///
/// # Safety
/// The function was defined by [`install`].
unsafe fn maths_of(context: *mut ffi::sqlite3_context) -> &'static Maths {
    // SAFETY: SQLite passes the context of the running call.
    let data = unsafe { ffi::sqlite3_user_data(context) };
    // SAFETY: a pointer into a static.
    unsafe { &*data.cast::<Maths>() }
}

/// An argument as a number, if SQLite takes it for one.
fn number(value: *mut ffi::sqlite3_value) -> Option<Number> {
    // SAFETY: the caller passes an argument of the running call.
    match unsafe { ffi::sqlite3_value_numeric_type(value) } {
        // SAFETY: as above.
        ffi::SQLITE_INTEGER => Some(Number::Integer(unsafe { ffi::sqlite3_value_int64(value) })),
        // SAFETY: as above.
        ffi::SQLITE_FLOAT => Some(Number::Real(unsafe { ffi::sqlite3_value_double(value) })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::types::Value;

    use super::*;
    use crate::testing::plain_connection;

    fn calculate(sql: &str) -> Value {
        let connection = plain_connection();
        install(&connection).unwrap();
        connection.query_row(&format!("SELECT {sql}"), [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn results_are_the_same_on_every_cpu_to_the_last_bit() {
        // What `libm` gives: the right result or its neighbour. A new version of it that gives other
        // bits is a new engine epoch.
        let cases: &[(&str, &str)] = &[
            ("acos(0.5)", "1.0471975511965979"),
            ("asin(1)", "1.5707963267948966"),
            ("atan(1)", "0.7853981633974483"),
            ("atan2(1, -1)", "2.356194490192345"),
            ("acosh(2)", "1.3169578969248166"),
            ("asinh(1)", "0.881373587019543"),
            ("atanh(0.5)", "0.5493061443340548"),
            ("cos(1)", "0.5403023058681398"),
            ("cosh(1)", "1.543080634815244"),
            ("sin(1)", "0.8414709848078965"),
            ("sinh(1)", "1.1752011936438014"),
            ("tan(1)", "1.5574077246549023"),
            ("tanh(1)", "0.7615941559557649"),
            ("exp(1)", "2.7182818284590455"),
            ("ln(10)", "2.302585092994046"),
            ("log(100)", "2.0"),
            ("log10('1000')", "3.0"),
            ("log2(8)", "3.0"),
            ("log(2, 1024)", "10.0"),
            ("mod(7.5, 2)", "1.5"),
            ("pow(2, 0.5)", "1.4142135623730951"),
            ("power(2, 10)", "1024.0"),
            ("sqrt(2)", "1.4142135623730951"),
            ("radians(180)", "3.141592653589793"),
            ("degrees(pi())", "180.0"),
            ("ceil(1.2)", "2.0"),
            ("ceiling(-1.2)", "-1.0"),
            ("floor(-1.2)", "-2.0"),
            ("trunc(-1.9)", "-1.0"),
        ];
        for (sql, expected) in cases {
            let Value::Real(found) = calculate(sql) else { panic!("{sql} is no real number") };
            assert_eq!(format!("{found:?}"), *expected, "{sql}");
        }
    }

    #[test]
    fn null_and_integer_rules_are_those_of_sqlite() {
        let nulls = [
            "sqrt(-1)",
            "sqrt(NULL)",
            "sqrt('abc')",
            "sqrt(x'31')",
            "ln(0)",
            "ln(-1)",
            "log(1, 5)",
            "log(0.5, 5)",
            "log(2, NULL)",
            "log(2, -1)",
            "acos(2)",
            "mod(1, 0)",
            "pow('x', 2)",
            "ceil('abc')",
            "ceil(NULL)",
        ];
        for sql in nulls {
            assert_eq!(calculate(sql), Value::Null, "{sql}");
        }
        assert_eq!(calculate("ceil(3)"), Value::Integer(3));
        assert_eq!(calculate("floor('7')"), Value::Integer(7));
        assert_eq!(calculate("trunc(9223372036854775807)"), Value::Integer(i64::MAX));
        assert_eq!(calculate("log(2, '8 apples')"), Value::Real(3.0));
    }

    #[test]
    fn functions_are_usable_in_indexes_and_generated_columns() {
        let connection = plain_connection();
        install(&connection).unwrap();
        connection
            .execute_batch(
                "PRAGMA trusted_schema = OFF;
                 CREATE TABLE t (x, y AS (sqrt(x)));
                 CREATE INDEX i ON t (floor(x));
                 INSERT INTO t VALUES (16);",
            )
            .unwrap();
        let y: f64 = connection.query_row("SELECT y FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(y.to_bits(), 4.0_f64.to_bits());
    }
}
