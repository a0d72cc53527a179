//! What every client does with every request: note how it went, and learn the server's time from the reply.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::FutureExt;
use http::{Method, Request, Response};
use tower::{Layer, Service};

use super::clock::Clock;

/// One request and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// As in RBAC: get, list, watch, create, update, patch, delete.
    pub verb: &'static str,
    /// Plural, with the subresource behind a slash.
    pub resource: String,
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
fn verb_and_resource(method: &Method, uri: &http::Uri) -> (&'static str, String) {
    let mut parts = uri.path().split('/').filter(|part| !part.is_empty());
    match parts.next() {
        Some("api") => drop(parts.next()),
        Some("apis") => drop((parts.next(), parts.next())),
        _ => return ("get", "nonresource".to_owned()),
    }
    let mut rest: Vec<&str> = parts.collect();
    if rest.len() > 2 && rest.first() == Some(&"namespaces") {
        rest.drain(..2);
    }
    let named = rest.len() > 1;
    let resource = match rest.as_slice() {
        [] => "discovery".to_owned(),
        [plural] | [plural, _] => (*plural).to_owned(),
        [plural, _, subresource, ..] => format!("{plural}/{subresource}"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_rbac_reads_them() {
        let cases = [
            (Method::GET, "/apis/g/v1/pools?limit=500", "list", "pools"),
            (Method::GET, "/apis/g/v1/pools?watch=true&x=1", "watch", "pools"),
            (Method::GET, "/apis/g/v1/namespaces/ns/pools/p", "get", "pools"),
            (Method::PUT, "/apis/g/v1/namespaces/ns/pools/p/status", "update", "pools/status"),
            (Method::POST, "/apis/g/v1/namespaces/ns/pools", "create", "pools"),
            (Method::PATCH, "/apis/g/v1/pools/p", "patch", "pools"),
            (Method::DELETE, "/api/v1/namespaces/ns/pods/p", "delete", "pods"),
            (Method::GET, "/apis/g/v1", "get", "discovery"),
            (Method::GET, "/version", "get", "nonresource"),
        ];
        for (method, uri, verb, resource) in cases {
            let found = verb_and_resource(&method, &uri.parse().expect("a uri"));
            assert_eq!(found, (verb, resource.to_owned()), "{uri}");
        }
    }
}
