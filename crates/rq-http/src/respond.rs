//! What an answer is made of, and the headers every answer carries.
//!
//! Handlers say what they mean in a [`Reply`]; [`Envelope::seal`] is the only place that writes headers.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{self, InvalidHeaderValue},
};
use http_body_util::Full;
use rq_node::Level;

use crate::{
    options::Options,
    routes::{JSON, TEXT},
};

const X_RQLITE_VERSION: HeaderName = HeaderName::from_static("x-rqlite-version");
const X_RQLITE_SERVED_BY: HeaderName = HeaderName::from_static("x-rqlite-served-by");
const X_RQ_ERROR: HeaderName = HeaderName::from_static("x-rq-error");
const X_RQ_DETAIL: HeaderName = HeaderName::from_static("x-rq-detail");
const X_RQ_LEVEL: HeaderName = HeaderName::from_static("x-rq-level");

/// Who did the work of a request, as clients are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServedBy {
    /// Nobody is named.
    Nobody,
    /// This node, by its advertised HTTP address.
    ThisNode,
    /// The leader, by its internode address.
    Leader(String),
}

impl From<Option<String>> for ServedBy {
    fn from(leader: Option<String>) -> Self {
        leader.map_or(Self::ThisNode, Self::Leader)
    }
}

/// An answer as a handler means it.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    /// The status code.
    pub(crate) status: StatusCode,
    /// The content type; `None` leaves the header out.
    pub(crate) content_type: Option<&'static str>,
    /// Whether this is a text error, which browsers must not take for anything else.
    pub(crate) nosniff: bool,
    /// Who did the work.
    pub(crate) served_by: ServedBy,
    /// The read level really used.
    pub(crate) level: Option<Level>,
    /// Seconds after which trying again makes sense.
    pub(crate) retry_after: Option<u64>,
    /// Where to go instead.
    pub(crate) location: Option<String>,
    /// The value of `X-Rq-Error`.
    pub(crate) error: Option<String>,
    /// The value of `X-Rq-Detail`: what more is known of an error whose body clients compare.
    pub(crate) detail: Option<String>,
    /// Whether the connection is of no use any more.
    pub(crate) close: bool,
    /// The body.
    pub(crate) body: Bytes,
}

impl Reply {
    /// A status with an empty body.
    pub(crate) fn empty(status: StatusCode) -> Self {
        Self {
            status,
            content_type: None,
            nosniff: false,
            served_by: ServedBy::Nobody,
            level: None,
            retry_after: None,
            location: None,
            error: None,
            detail: None,
            close: false,
            body: Bytes::new(),
        }
    }

    /// 200 with JSON.
    pub(crate) fn json(body: impl Into<Bytes>) -> Self {
        Self { content_type: Some(JSON), body: body.into(), ..Self::empty(StatusCode::OK) }
    }

    /// Plain text.
    pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self { content_type: Some(TEXT), body: body.into(), ..Self::empty(status) }
    }

    /// A text error: the message and one line feed.
    pub(crate) fn text_error(status: StatusCode, message: &str) -> Self {
        let mut body = String::with_capacity(message.len() + 1);
        body.push_str(message);
        body.push('\n');
        Self { nosniff: true, ..Self::text(status, body) }
    }

    /// A redirect as browsers follow it, with a link for people where the method has a body.
    pub(crate) fn redirect(status: StatusCode, location: &str, with_body: bool) -> Self {
        let reason = status.canonical_reason().unwrap_or("Moved");
        let (content_type, body) = if with_body {
            let body = format!("<a href=\"{location}\">{reason}</a>.\n\n");
            (Some("text/html; charset=utf-8"), body.into())
        } else {
            (None, Bytes::new())
        };
        Self { content_type, body, location: Some(location.to_owned()), ..Self::empty(status) }
    }

    /// Names who did the work.
    pub(crate) fn served(self, by: ServedBy) -> Self {
        Self { served_by: by, ..self }
    }
}

/// The headers every answer carries.
#[derive(Debug)]
pub(crate) struct Envelope {
    always: HeaderMap,
    served_by: HeaderValue,
}

impl Envelope {
    /// Prepares the headers. Fails if a configured value cannot stand in a header.
    pub(crate) fn new(options: &Options) -> Result<Self, InvalidHeaderValue> {
        let mut always = HeaderMap::with_capacity(16);
        always.insert(X_RQLITE_VERSION, HeaderValue::from_str(&options.build.api_version)?);
        let server = format!("rqd/{}", options.build.version);
        always.insert(header::SERVER, HeaderValue::from_str(&server)?);
        always.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("OPTIONS, GET, POST"),
        );
        let restricted = options.users.is_restricted();
        always.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static(if restricted {
                "Content-Type, Authorization"
            } else {
                "Content-Type"
            }),
        );
        if restricted {
            always
                .insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            always.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"rqlite\""),
            );
        }
        if let Some(origin) = &options.allow_origin {
            always.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_str(origin)?);
        }
        Ok(Self { always, served_by: HeaderValue::from_str(&options.advertised)? })
    }

    /// Turns a reply into a response.
    pub(crate) fn seal(&self, reply: Reply) -> Response<Full<Bytes>> {
        let mut headers = self.always.clone();
        if let Some(content_type) = reply.content_type {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        if reply.nosniff {
            headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        }
        match reply.served_by {
            ServedBy::Nobody => {}
            ServedBy::ThisNode => {
                headers.insert(X_RQLITE_SERVED_BY, self.served_by.clone());
            }
            ServedBy::Leader(address) => {
                if let Ok(address) = HeaderValue::try_from(address) {
                    headers.insert(X_RQLITE_SERVED_BY, address);
                }
            }
        }
        if let Some(level) = reply.level {
            headers.insert(X_RQ_LEVEL, HeaderValue::from_static(level.as_str()));
        }
        if let Some(seconds) = reply.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        // None of these holds text that came from outside unescaped; if it ever did, better no header.
        if let Some(Ok(location)) = reply.location.map(HeaderValue::try_from) {
            headers.insert(header::LOCATION, location);
        }
        if let Some(Ok(error)) = reply.error.map(HeaderValue::try_from) {
            headers.insert(X_RQ_ERROR, error);
        }
        if let Some(Ok(detail)) = reply.detail.map(HeaderValue::try_from) {
            headers.insert(X_RQ_DETAIL, detail);
        }
        if reply.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let mut response = Response::new(Full::new(reply.body));
        *response.status_mut() = reply.status;
        *response.headers_mut() = headers;
        response
    }
}
