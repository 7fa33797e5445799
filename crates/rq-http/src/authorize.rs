//! Whether the caller may do what the route needs. The only place that asks.

use std::sync::Arc;

use http::{HeaderMap, header::AUTHORIZATION};
use rq_security::{Credentials, Decision, Permission};

use crate::service::Service;

/// Why a caller may not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A permission is missing: 401.
    Denied,
    /// Too many passwords are being verified: 503.
    Busy,
}

/// Checks all permissions a route needs.
pub(crate) async fn authorize(
    service: &Service,
    headers: &HeaderMap,
    permissions: &[Permission],
) -> Result<(), Refusal> {
    let users = service.users();
    if !users.is_restricted() {
        for _ in permissions {
            service.metrics().authorized.increment();
        }
        return Ok(());
    }
    let credentials =
        headers.get(AUTHORIZATION).and_then(|value| Credentials::from_header(value.as_bytes()));
    for permission in permissions {
        let decision = match users.check_at_once(credentials.as_ref(), *permission) {
            Some(decision) => decision,
            None => check_off_thread(service, credentials.clone(), *permission).await,
        };
        match decision {
            Decision::Allow => service.metrics().authorized.increment(),
            Decision::Deny => {
                service.metrics().denied.increment();
                return Err(Refusal::Denied);
            }
            Decision::Busy => return Err(Refusal::Busy),
        }
    }
    Ok(())
}

/// Computes a password hash where it holds nobody up.
async fn check_off_thread(
    service: &Service,
    credentials: Option<Credentials>,
    permission: Permission,
) -> Decision {
    let users = Arc::clone(service.users());
    tokio::task::spawn_blocking(move || users.check(credentials.as_ref(), permission))
        .await
        .unwrap_or(Decision::Deny)
}
