//! How many calls of a function at once: what is reserved for it, and what is always there.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use serde_json::{Value, json};

use super::{document, input, view};
use crate::app::{App, segment};
use crate::error::ApiError;
use crate::name::{Reference, parameter};
use crate::platform::Platform;
use crate::reply;
use crate::types::{Caller, Identity, LATEST};

/// Where the function's name stands in `/2019-09-30/functions/{name}/…`.
const NAME_SEGMENT: usize = 3;

/// Largest `MaxItems` of ListProvisionedConcurrencyConfigs, as on Lambda.
const MAX_ITEMS: usize = 50;

/// The routes.
pub fn routes<P: Platform>() -> Router<Arc<App<P>>> {
    Router::new()
        .route("/2017-10-31/functions/{name}/concurrency", put(reserve::<P>).delete(unreserve::<P>))
        .route("/2019-09-30/functions/{name}/concurrency", get(reserved::<P>))
        .route(
            "/2019-09-30/functions/{name}/provisioned-concurrency",
            get(provisioned::<P>).put(provision::<P>).delete(unprovision::<P>),
        )
        .route("/2016-08-19/account-settings", get(account::<P>))
        .route("/2016-08-19/account-settings/", get(account::<P>))
}

fn reference(uri: &Uri) -> Result<Reference, ApiError> {
    Reference::of_request(segment(uri, NAME_SEGMENT), uri.query())
}

/// Name of the function as a whole: what is reserved is so for all of its versions.
fn whole(uri: &Uri) -> Result<String, ApiError> {
    let Reference { name, qualifier } = reference(uri)?;
    match qualifier {
        None => Ok(name),
        Some(qualifier) => Err(ApiError::InvalidParameterValue(format!(
            "Concurrency is reserved for the function as a whole, not for {qualifier}: leave the qualifier out"
        ))),
    }
}

/// Name of the function whose `$LATEST` is meant. On Lambda that is the one version which cannot be provisioned: it
/// wants a published one or an alias. Here it is the only version there is.
fn version(uri: &Uri, identity: &Identity) -> Result<String, ApiError> {
    let reference = reference(uri)?;
    if reference.qualifier.is_none() {
        return Err(ApiError::InvalidParameterValue(format!(
            "Parameter 'Qualifier' is missing: give {LATEST}"
        )));
    }
    reference.latest(identity).map(|reference| reference.name)
}

async fn reserve<P: Platform>(
    State(app): State<Arc<App<P>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let name = whole(request.uri())?;
    let caller = Caller::of(request.headers());
    let body = document(&app, request.into_body(), "PutFunctionConcurrency").await?;
    let wanted = input::reserved(&body.bytes)?;
    let function = app.platform.reserve(&caller, &name, Some(wanted)).await?;
    Ok(reply::json(StatusCode::OK, &view::concurrency(&function)))
}

async fn reserved<P: Platform>(
    State(app): State<Arc<App<P>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let name = whole(request.uri())?;
    let function = app.platform.get_function(&Caller::of(request.headers()), &name).await?;
    Ok(reply::json(StatusCode::OK, &view::concurrency(&function)))
}

async fn unreserve<P: Platform>(
    State(app): State<Arc<App<P>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let name = whole(request.uri())?;
    app.platform.reserve(&Caller::of(request.headers()), &name, None).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn provision<P: Platform>(
    State(app): State<Arc<App<P>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let name = version(request.uri(), &app.platform.identity())?;
    let caller = Caller::of(request.headers());
    let body = document(&app, request.into_body(), "PutProvisionedConcurrencyConfig").await?;
    let wanted = input::provisioned(&body.bytes)?;
    let made = app.platform.provision(&caller, &name, wanted).await?;
    Ok(reply::json(StatusCode::ACCEPTED, &Value::Object(view::provisioned(&made))))
}

/// GetProvisionedConcurrencyConfig and, by its parameter `List`, ListProvisionedConcurrencyConfigs.
async fn provisioned<P: Platform>(
    State(app): State<Arc<App<P>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let identity = app.platform.identity();
    let (uri, caller) = (request.uri(), Caller::of(request.headers()));
    match parameter(uri.query(), "List").as_deref() {
        None => {
            let name = version(uri, &identity)?;
            let found = app.platform.provisioned(&caller, &name).await?;
            let found = found.ok_or_else(|| {
                ApiError::NotProvisioned(format!("{}:{LATEST}", identity.function_arn(&name)))
            })?;
            Ok(reply::json(StatusCode::OK, &Value::Object(view::provisioned(&found))))
        }
        Some("ALL") => {
            check_page(uri.query())?;
            let name = reference(uri)?.latest(&identity)?.name;
            let found = app.platform.provisioned(&caller, &name).await?;
            // One version, at most one entry: there is never a second page.
            let arn = format!("{}:{LATEST}", identity.function_arn(&name));
            let entry = found.map(|found| {
                let mut fields = view::provisioned(&found);
                fields.insert("FunctionArn".to_owned(), json!(arn));
                fields
            });
            let entries: Vec<_> = entry.into_iter().collect();
            Ok(reply::json(StatusCode::OK, &json!({ "ProvisionedConcurrencyConfigs": entries })))
        }
        Some(other) => Err(ApiError::InvalidParameterValue(format!(
            "Value '{other}' at 'List': give ALL or leave it out"
        ))),
    }
}

fn check_page(query: Option<&str>) -> Result<(), ApiError> {
    let given = |name| parameter(query, name).filter(|text| !text.is_empty());
    if let Some(text) = given("MaxItems")
        && !text.parse().is_ok_and(|number| (1..=MAX_ITEMS).contains(&number))
    {
        return Err(ApiError::InvalidParameterValue(format!(
            "Value '{text}' at 'MaxItems' is out of range: give 1 to {MAX_ITEMS}"
        )));
    }
    match given("Marker") {
        None => Ok(()),
        Some(_) => Err(ApiError::InvalidParameterValue(
            "Value at 'Marker' is none: no page has another after it".to_owned(),
        )),
    }
}

async fn unprovision<P: Platform>(
    State(app): State<Arc<App<P>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let name = version(request.uri(), &app.platform.identity())?;
    app.platform.unprovision(&Caller::of(request.headers()), &name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn account<P: Platform>(
    State(app): State<Arc<App<P>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let account = app.platform.account(&Caller::of(request.headers())).await?;
    Ok(reply::json(StatusCode::OK, &view::account(&account, input::ZIP_LIMIT)))
}
