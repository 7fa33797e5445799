//! A server that does nothing but answer: what HTTP alone costs on this machine.
//!
//! The same library, runtime, allocator and socket options as `rqd`, and answers of about the same
//! length. It reads whole bodies, as any server must, and looks at nothing.

use std::{io, net::Ipv4Addr};

use axum::{
    Router, body::Bytes, http::header::CONTENT_TYPE, response::IntoResponse, routing::get,
    serve::ListenerExt as _,
};
use tokio::{net::TcpListener, runtime::Runtime};

use crate::{cli::NullServerArguments, failure::Failure, output};

/// The answer to a GET, as long as that to a read of one row.
const READ_ANSWER: &str =
    r#"{"results":[{"columns":["id","name"],"types":["integer","text"],"values":[[1,"fiona"]]}]}"#;

/// The answer to a POST, as long as that to an insert of one row.
const WRITE_ANSWER: &str = r#"{"results":[{"last_insert_id":123456,"rows_affected":1}]}"#;

/// Serves until the process is killed.
pub(crate) fn run(arguments: &NullServerArguments) -> Result<(), Failure> {
    let served = Runtime::new().and_then(|runtime| runtime.block_on(serve(arguments.port)));
    served.map_err(Failure::system("serving"))
}

async fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    output::line(&listener.local_addr()?.to_string());
    let router = Router::new().fallback(get(read).post(write));
    let listener = listener.tap_io(|stream| {
        // A client that has gone already shows itself at the next read.
        let _gone = stream.set_nodelay(true);
    });
    axum::serve(listener, router).await
}

async fn read() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], READ_ANSWER)
}

async fn write(_body: Bytes) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], WRITE_ANSWER)
}
