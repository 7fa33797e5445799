//! The console: for now one page that says what runs here and where to go on.

use http::{Method, StatusCode};

use crate::{error, respond::Reply, service::Call};

const PAGE: &str = include_str!("console/index.html");

/// `/`: to the console.
pub(crate) fn root(call: &Call<'_>) -> Reply {
    Reply::redirect(StatusCode::FOUND, "/console/", has_body(call))
}

/// `/console`: to the console.
pub(crate) fn console_root(call: &Call<'_>) -> Reply {
    Reply::redirect(StatusCode::MOVED_PERMANENTLY, "/console/", has_body(call))
}

/// The console's files.
pub(crate) fn console(call: &Call<'_>) -> Reply {
    call.service.metrics.console.increment();
    match call.head.uri.path() {
        "/console/" => Reply {
            content_type: Some("text/html; charset=utf-8"),
            ..Reply::text(StatusCode::OK, page(call))
        },
        "/console/index.html" => {
            let reply = Reply::redirect(StatusCode::MOVED_PERMANENTLY, "./", false);
            Reply { content_type: None, ..reply }
        }
        _ => error::nothing_there("404 page not found"),
    }
}

/// Redirects to other methods have no body.
fn has_body(call: &Call<'_>) -> bool {
    call.head.method == Method::GET || call.head.method == Method::HEAD
}

/// Fills the page in. The values are our own or the operator's, but nothing is taken on trust.
fn page(call: &Call<'_>) -> String {
    let options = &call.service.options;
    PAGE.replace("{{version}}", &escape(&options.build.version))
        .replace("{{api_version}}", &escape(&options.build.api_version))
        .replace("{{address}}", &escape(&options.advertised))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_become_markup() {
        assert_eq!(escape("<a b=\"c\">&"), "&lt;a b=&quot;c&quot;&gt;&amp;");
    }

    #[test]
    fn the_page_has_a_place_for_each_value() {
        for place in ["{{version}}", "{{api_version}}", "{{address}}"] {
            assert!(PAGE.contains(place), "{place}");
        }
    }
}
