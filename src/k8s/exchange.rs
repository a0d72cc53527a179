//! What every client does with every request: note how it went, and learn the server's time from the reply.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use tower::{Layer, Service};

use super::clock::Clock;

/// All that the product asks for.
pub const RESOURCES: [&str; 15] = [
    "inclusterippools",
    "inclusterippools/status",
    "globalinclusterippools",
    "globalinclusterippools/status",
    "inclusterprefixpools",
    "inclusterprefixpools/status",
    "globalinclusterprefixpools",
    "globalinclusterprefixpools/status",
    "ipaddressclaims",
    "ipaddressclaims/status",
    "ipaddresses",
    "clusters",
    "leases",
    "pods",
    "events",
];

/// One request and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// As in RBAC: get, list, watch, create, update, patch, delete.
    pub verb: &'static str,
    /// Plural, with the subresource behind a slash; one of [`RESOURCES`], or `other`.
    pub resource: &'static str,
    /// The HTTP status, or 0 if there was no answer.
    pub code: u16,
    /// Until the reply's head.
    pub took: Duration,
}

/// Called for every exchange, on the request's task; it must not block.
pub type Observer = Arc<dyn Fn(&Exchange) + Send + Sync>;

/// The layer of a client.
#[derive(Clone)]
pub struct ExchangeLayer {
    /// Learns the server's time.
    pub clock: Clock,
    /// Is told of every exchange.
    pub observer: Observer,
}

impl<S> Layer<S> for ExchangeLayer {
    type Service = ExchangeService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ExchangeService { inner, layer: self.clone() }
    }
}

/// The service of [`ExchangeLayer`].
#[derive(Clone)]
pub struct ExchangeService<S> {
    inner: S,
    layer: ExchangeLayer,
}

impl<S, Req, Res> Service<Request<Req>> for ExchangeService<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    Res: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, ctx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(ctx)
    }

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        let (verb, resource) = verb_and_resource(request.method(), request.uri());
        let ExchangeLayer { clock, observer } = self.layer.clone();
        let start = clock.boot();
        let tell = move |clock: &Clock, code: u16| {
            observer(&Exchange { verb, resource, code, took: clock.boot().saturating_sub(start) });
        };
        self.inner
            .call(request)
            .map(move |result| {
                let code = result.as_ref().map_or(0, |response| response.status().as_u16());
                if let Ok(response) = &result
                    && let Some(date) = response.headers().get(http::header::DATE).and_then(|date| date.to_str().ok())
                {
                    clock.server_says(date);
                }
                tell(&clock, code);
                result
            })
            .boxed()
    }
}

/// Reads `/api/v1/…` and `/apis/group/version/…` paths as RBAC does.
fn verb_and_resource(method: &Method, uri: &http::Uri) -> (&'static str, &'static str) {
    let mut parts = uri.path().split('/').filter(|part| !part.is_empty());
    match parts.next() {
        Some("api") => drop(parts.next()),
        Some("apis") => drop((parts.next(), parts.next())),
        _ => return ("get", "nonresource"),
    }
    let mut rest: Vec<&str> = parts.collect();
    if rest.len() > 2 && rest.first() == Some(&"namespaces") {
        rest.drain(..2);
    }
    let named = rest.len() > 1;
    let resource = match rest.as_slice() {
        [] => "discovery",
        [plural] | [plural, _] => known(plural, None),
        [plural, _, subresource, ..] => known(plural, Some(subresource)),
    };
    let watching = uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
    let verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ if watching => "watch",
        _ if named || resource == "discovery" => "get",
        _ => "list",
    };
    (verb, resource)
}

/// A label for metrics must be one of few.
fn known(plural: &str, subresource: Option<&str>) -> &'static str {
    let is = |known: &&&str| match (known.split_once('/'), subresource) {
        (Some((of, part)), Some(subresource)) => of == plural && part == subresource,
        (None, None) => **known == plural,
        _ => false,
    };
    RESOURCES.iter().find(is).copied().unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_rbac_reads_them() {
        let cases = [
            (Method::GET, "/apis/g/v1/ipaddresses?limit=500", "list", "ipaddresses"),
            (Method::GET, "/apis/g/v1/ipaddresses?watch=true&x=1", "watch", "ipaddresses"),
            (Method::GET, "/apis/g/v1/namespaces/ns/ipaddresses/a", "get", "ipaddresses"),
            (Method::PUT, "/apis/g/v1/namespaces/n/inclusterippools/p/status", "update", "inclusterippools/status"),
            (Method::POST, "/apis/g/v1/namespaces/ns/ipaddresses", "create", "ipaddresses"),
            (Method::PATCH, "/apis/g/v1/globalinclusterippools/p", "patch", "globalinclusterippools"),
            (Method::PATCH, "/apis/g/v1/namespaces/ns/anything/p/scale", "patch", "other"),
            (Method::DELETE, "/api/v1/namespaces/ns/pods/p", "delete", "pods"),
            (Method::GET, "/apis/g/v1", "get", "discovery"),
            (Method::GET, "/version", "get", "nonresource"),
        ];
        for (method, uri, verb, resource) in cases {
            let found = verb_and_resource(&method, &uri.parse().expect("a uri"));
            assert_eq!(found, (verb, resource), "{uri}");
        }
    }
}
