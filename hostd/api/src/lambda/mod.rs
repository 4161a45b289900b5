//! The Lambda REST API: functions, their code and configuration, and calls.

mod concurrency;
mod document;
mod environment;
mod input;
mod tags;
mod view;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

pub use input::DOCUMENT_LIMIT;
use input::ZIP_LIMIT;
pub use tags::TagChange;

use crate::app::{App, RequestId, header as header_of, segment};
use crate::body::Held;
use crate::error::ApiError;
use crate::invoke;
use crate::name::{Reference, parameter};
use crate::platform::Platform;
use crate::reply;
use crate::types::{Caller, Function, Identity, InvokeRequest, LATEST};

/// Most functions on a page; as on Lambda, whatever `MaxItems` says.
const PAGE_LIMIT: usize = 50;

/// Largest `MaxItems`; as on Lambda.
const MAX_ITEMS: usize = 10_000;

/// Where the function's name stands in `/2015-03-31/functions/{name}/…` and `/2017-03-31/tags/{arn}`.
const NAME_SEGMENT: usize = 3;

/// The routes.
pub fn routes<P: Platform>() -> Router<Arc<App<P>>> {
    Router::new()
        .route("/2015-03-31/functions", get(list::<P>).post(create::<P>))
        .route("/2015-03-31/functions/", get(list::<P>).post(create::<P>))
        .route("/2015-03-31/functions/{name}", get(get_function::<P>).delete(delete::<P>))
        .route("/2015-03-31/functions/{name}/code", put(update_code::<P>))
        .route(
            "/2015-03-31/functions/{name}/configuration",
            get(get_configuration::<P>).put(update_configuration::<P>),
        )
        .route("/2015-03-31/functions/{name}/invocations", post(invocations::<P>))
        .merge(concurrency::routes::<P>())
        .route("/2017-03-31/tags/{arn}", get(list_tags::<P>).post(tag::<P>).delete(untag::<P>))
}

/// The function a request's path and query name; `$LATEST` is the only version.
fn named<P: Platform>(app: &App<P>, request: &Request) -> Result<(Reference, Identity), ApiError> {
    let identity = app.platform.identity();
    let uri = request.uri();
    let reference = Reference::of_request(segment(uri, NAME_SEGMENT), uri.query())?.latest(&identity)?;
    Ok((reference, identity))
}

/// Reads the document of operation `name`.
async fn document<P: Platform>(app: &App<P>, body: Body, name: &str) -> Result<Held, ApiError> {
    let too_large = |_| {
        ApiError::RequestTooLarge(format!(
            "Request must be smaller than {DOCUMENT_LIMIT} bytes for the {name} operation: a zip of at most \
             {ZIP_LIMIT} bytes"
        ))
    };
    app.documents.read(body, too_large).await
}

fn shown(status: StatusCode, function: &Function, identity: &Identity) -> Response {
    reply::json(status, &view::configuration(function, identity, false))
}

async fn create<P: Platform>(State(app): State<Arc<App<P>>>, request: Request) -> Result<Response, ApiError> {
    let caller = Caller::of(request.headers());
    // The decoded archive takes the place of the text in the account: deploys are what takes long.
    let Held { bytes, memory: _account } = document(&app, request.into_body(), "CreateFunction").await?;
    let wanted = input::create(&bytes, &app.platform.limits())?;
    drop(bytes);
    let made = app.platform.create_function(&caller, wanted).await?;
    Ok(shown(StatusCode::CREATED, &made, &app.platform.identity()))
}

/// The function a request is about, and whether it names a version of it.
async fn look_up<P: Platform>(
    app: &App<P>,
    request: Request,
) -> Result<(Function, Identity, bool), ApiError> {
    let (reference, identity) = named(app, &request)?;
    let function = app.platform.get_function(&Caller::of(request.headers()), &reference.name).await?;
    Ok((function, identity, reference.qualifier.is_some()))
}

async fn get_function<P: Platform>(
    State(app): State<Arc<App<P>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (function, identity, qualified) = look_up(&app, request).await?;
    Ok(reply::json(StatusCode::OK, &view::function(&function, &identity, qualified)))
}

async fn get_configuration<P: Platform>(
    State(app): State<Arc<App<P>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (function, identity, qualified) = look_up(&app, request).await?;
    Ok(reply::json(StatusCode::OK, &view::configuration(&function, &identity, qualified)))
}

async fn list<P: Platform>(State(app): State<Arc<App<P>>>, request: Request) -> Result<Response, ApiError> {
    let query = request.uri().query();
    let qualified = match parameter(query, "FunctionVersion").as_deref() {
        None | Some("") => false,
        Some("ALL") => true,
        Some(other) => {
            return Err(ApiError::InvalidParameterValue(format!(
                "Value '{other}' at 'FunctionVersion': give ALL"
            )));
        }
    };
    let limit = match parameter(query, "MaxItems").filter(|text| !text.is_empty()) {
        None => PAGE_LIMIT,
        Some(text) => match text.parse::<usize>() {
            Ok(number) if (1..=MAX_ITEMS).contains(&number) => number.min(PAGE_LIMIT),
            _ => {
                return Err(ApiError::InvalidParameterValue(format!(
                    "Value '{text}' at 'MaxItems' is out of range: give 1 to {MAX_ITEMS}"
                )));
            }
        },
    };
    let after = parameter(query, "Marker")
        .filter(|text| !text.is_empty())
        .map(|text| read_marker(&text))
        .transpose()?;
    let caller = Caller::of(request.headers());
    let page = app.platform.list_functions(&caller, after.as_deref(), limit).await?;
    let identity = app.platform.identity();
    let functions: Vec<_> =
        page.functions.iter().map(|function| view::configuration(function, &identity, qualified)).collect();
    let mut answer = json!({ "Functions": functions });
    if let (true, Some(last), Some(fields)) = (page.more, page.functions.last(), answer.as_object_mut()) {
        fields.insert("NextMarker".to_owned(), json!(marker(&last.name)));
    }
    Ok(reply::json(StatusCode::OK, &answer))
}

/// Markers are names in disguise, so that nobody takes them for anything but markers.
fn marker(name: &str) -> String {
    URL_SAFE_NO_PAD.encode(name)
}

fn read_marker(text: &str) -> Result<String, ApiError> {
    let name = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    name.filter(|name| Reference::parse(name).is_ok_and(|reference| reference.name == *name)).ok_or_else(
        || {
            ApiError::InvalidParameterValue(
                "Value at 'Marker' is none: give NextMarker of the page before".to_owned(),
            )
        },
    )
}

async fn update_code<P: Platform>(
    State(app): State<Arc<App<P>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (reference, identity) = named(&app, &request)?;
    let caller = Caller::of(request.headers());
    let Held { bytes, memory: _account } = document(&app, request.into_body(), "UpdateFunctionCode").await?;
    let wanted = input::update_code(reference.name, &bytes)?;
    drop(bytes);
    let function = app.platform.update_code(&caller, wanted).await?;
    Ok(shown(StatusCode::OK, &function, &identity))
}

async fn update_configuration<P: Platform>(
    State(app): State<Arc<App<P>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (reference, identity) = named(&app, &request)?;
    let caller = Caller::of(request.headers());
    let body = document(&app, request.into_body(), "UpdateFunctionConfiguration").await?;
    let wanted = input::update_configuration(reference.name, &body.bytes, &app.platform.limits())?;
    let function = app.platform.update_configuration(&caller, wanted).await?;
    Ok(shown(StatusCode::OK, &function, &identity))
}

async fn list_tags<P: Platform>(
    State(app): State<Arc<App<P>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (function, _, _) = look_up(&app, request).await?;
    Ok(reply::json(StatusCode::OK, &json!({ "Tags": function.tags })))
}

async fn tag<P: Platform>(State(app): State<Arc<App<P>>>, request: Request) -> Result<Response, ApiError> {
    let (reference, _) = named(&app, &request)?;
    let caller = Caller::of(request.headers());
    let body = document(&app, request.into_body(), "TagResource").await?;
    let change = TagChange { set: input::tags(&body.bytes)?, ..TagChange::default() };
    app.platform.change_tags(&caller, &reference.name, change).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn untag<P: Platform>(State(app): State<Arc<App<P>>>, request: Request) -> Result<Response, ApiError> {
    let (reference, _) = named(&app, &request)?;
    let caller = Caller::of(request.headers());
    let query = request.uri().query().unwrap_or_default();
    let keys = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "tagKeys");
    let remove = keys.map(|(_, key)| key.into_owned()).collect();
    let change = TagChange { remove, ..TagChange::default() };
    app.platform.change_tags(&caller, &reference.name, change).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn delete<P: Platform>(State(app): State<Arc<App<P>>>, request: Request) -> Result<Response, ApiError> {
    let (reference, _) = named(&app, &request)?;
    if reference.qualifier.is_some() {
        return Err(ApiError::InvalidParameterValue(format!(
            "{LATEST} version cannot be deleted without deleting the function: leave the qualifier out"
        )));
    }
    app.platform.delete_function(&Caller::of(request.headers()), &reference.name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What kind of call `X-Amz-Invocation-Type` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    RequestResponse,
    DryRun,
}

fn kind(headers: &HeaderMap) -> Result<Kind, ApiError> {
    match header_of(headers, "x-amz-invocation-type") {
        None | Some("" | "RequestResponse") => Ok(Kind::RequestResponse),
        Some("DryRun") => Ok(Kind::DryRun),
        Some("Event") => Err(ApiError::InvalidParameterValue(
            "Asynchronous calls (X-Amz-Invocation-Type: Event) are not supported yet: call with RequestResponse"
                .to_owned(),
        )),
        Some(other) => Err(ApiError::InvalidParameterValue(format!(
            "Header X-Amz-Invocation-Type says '{other}': give RequestResponse or DryRun"
        ))),
    }
}

fn wants_log_tail(headers: &HeaderMap) -> Result<bool, ApiError> {
    match header_of(headers, "x-amz-log-type") {
        None | Some("" | "None") => Ok(false),
        Some("Tail") => Ok(true),
        Some(other) => Err(ApiError::InvalidParameterValue(format!(
            "Header X-Amz-Log-Type says '{other}': give Tail or None"
        ))),
    }
}

async fn invocations<P: Platform>(
    State(app): State<Arc<App<P>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (reference, identity) = named(&app, &request)?;
    let headers = request.headers();
    let kind = kind(headers)?;
    let log_tail = wants_log_tail(headers)?;
    let start = invoke::start_preference(headers)?;
    let restore_mode = invoke::restore_mode(headers)?;
    let client_context = invoke::client_context(headers)?;
    let caller = Caller::of(headers);
    let request_id = RequestId::of(&request);
    let body = app.events.read(request.into_body(), invoke::event_too_large).await?;
    let payload = invoke::event(&body.bytes)?;

    if kind == Kind::DryRun {
        app.platform.get_function(&caller, &reference.name).await?;
        return Ok((StatusCode::NO_CONTENT, [("x-amz-executed-version", LATEST)]).into_response());
    }
    let call = InvokeRequest {
        arn: reference.arn(&identity),
        function: reference.name,
        qualifier: LATEST.to_owned(),
        request_id,
        payload,
        content_type: invoke::EVENT_TYPE.to_owned(),
        log_tail,
        client_context,
        start,
        restore_mode,
    };
    let answer = app.platform.invoke(&caller, call).await?;
    let mut response = Response::new(Body::from(answer.payload.clone()));
    let content_type = answer.content_type.as_deref().unwrap_or("application/json");
    let content_type = HeaderValue::from_str(content_type);
    let content_type = content_type.unwrap_or(HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    reply::describe_call(response.headers_mut(), &answer, log_tail);
    Ok(response)
}
