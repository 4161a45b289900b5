//! `/function/{name}`: any HTTP request becomes an event, the handler's answer becomes the HTTP answer.
//!
//! The event has the shape of API Gateway's payload format 2.0, which Lambda's function URLs use as well:
//!
//! | field | what |
//! |---|---|
//! | `version`, `routeKey` | `2.0`, `$default` |
//! | `rawPath` | what follows the name, `/` if nothing does; as sent, not decoded |
//! | `rawQueryString` | as sent |
//! | `headers` | names in lower case, several values of one name joined by `,`; without `cookie` |
//! | `cookies` | list of `name=value`; left out if there are none |
//! | `queryStringParameters` | decoded, several values of one name joined by `,`; left out if there are none |
//! | `requestContext` | `accountId`, `apiId` (the function), `domainName` (`Host`), `domainPrefix`, `http` {`method`, `path`, `protocol`, `sourceIp`, `userAgent`}, `requestId`, `routeKey`, `stage`, `time`, `timeEpoch` |
//! | `body`, `isBase64Encoded` | left out / false if empty; text if the content type is textual (or missing) and the body is UTF-8; else base64 |
//!
//! The body is at most as large as an event may be (6 MiB), and so is the event made of it.
//!
//! | the handler | the client gets |
//! |---|---|
//! | returns an object with `statusCode` | that status, `headers`, `cookies` and `body` (decoded if `isBase64Encoded`) |
//! | returns anything else | 200 and the JSON of it |
//! | raises, breaks, does not start | 502 and the error object, `X-Amz-Function-Error` says so |
//! | takes too long | 504 and the error object |
//! | returns an object with `statusCode` that is no answer | 502 `BadGatewayException` that says what is wrong |
//!
//! Every answer of a function carries `X-Mote-Served-By`, `X-Mote-Phases` and `Server-Timing` as on the Lambda API.
//! `X-Mote-Start` is understood here too.

mod answer;
mod event;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use bytes::Bytes;

use crate::app::{App, RequestId, segment};
use crate::error::ApiError;
use crate::invoke::{self, EVENT_LIMIT};
use crate::name::Reference;
use crate::platform::Platform;
use crate::reply;
use crate::serve::Peer;
use crate::types::{Caller, InvokeRequest, LATEST};

/// Where the function's name stands in `/function/{name}/…`.
const NAME_SEGMENT: usize = 2;

/// The routes.
pub(crate) fn routes<P: Platform>() -> Router<Arc<App<P>>> {
    Router::new()
        .route("/function/{name}", any(call::<P>))
        .route("/function/{name}/", any(call::<P>))
        .route("/function/{name}/{*path}", any(call::<P>))
}

async fn call<P: Platform>(State(app): State<Arc<App<P>>>, request: Request) -> Result<Response, ApiError> {
    let identity = app.platform.identity();
    let reference = Reference::of_request(segment(request.uri(), NAME_SEGMENT), None)?.latest(&identity)?;
    let start = invoke::start_preference(request.headers())?;
    let restore_mode = invoke::restore_mode(request.headers())?;
    let caller = Caller::of(request.headers());
    let request_id = RequestId::of(&request);
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip().to_string());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (parts, body) = request.into_parts();
    let body = app.events.read(body, invoke::event_too_large).await?;

    let context = event::Context {
        function: &reference.name,
        account: &identity.account,
        request_id: &request_id,
        source_ip: peer.as_deref().unwrap_or_default(),
        unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
    };
    let too_large = |size: usize| invoke::event_too_large(u64::try_from(size).unwrap_or(u64::MAX));
    let body_text = event::body_text(&parts.headers, &body.bytes);
    if body_text.size > EVENT_LIMIT {
        return Err(too_large(body_text.size));
    }
    let payload = event::build(&parts, raw_path(parts.uri.path()), &body_text, &context);
    if payload.len() > EVENT_LIMIT {
        return Err(too_large(payload.len()));
    }
    // The event holds a copy.
    drop(body);

    let call = InvokeRequest {
        arn: reference.arn(&identity),
        function: reference.name,
        qualifier: LATEST.to_owned(),
        request_id,
        payload: Bytes::from(payload),
        content_type: invoke::EVENT_TYPE.to_owned(),
        log_tail: false,
        client_context: None,
        start,
        restore_mode,
    };
    let reply = app.platform.invoke(&caller, call).await?;
    let mut response = answer::build(&reply)?;
    reply::describe_call(response.headers_mut(), &reply, false);
    Ok(response)
}

/// What follows `/function/{name}` in a path.
fn raw_path(path: &str) -> &str {
    let rest = path.trim_start_matches('/').splitn(3, '/').nth(2).map(str::len);
    match rest {
        Some(length) => path.get(path.len() - length - 1..).unwrap_or("/"),
        None => "/",
    }
}

#[cfg(test)]
mod tests {
    use super::raw_path;

    #[test]
    fn raw_paths() {
        for (path, raw) in [
            ("/function/hello", "/"),
            ("/function/hello/", "/"),
            ("/function/hello/a", "/a"),
            ("/function/hello/a/b%20c/", "/a/b%20c/"),
            ("/function/hello//a", "//a"),
        ] {
            assert_eq!(raw_path(path), raw, "{path}");
        }
    }
}
