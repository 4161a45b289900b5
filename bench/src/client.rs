//! The appliance's API, as far as benchmarks use it: deploy, call in a given way, see what the call cost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use crate::Outcome;

/// Bound on one request. Unpacking the largest package takes an emulated appliance more than a minute.
const LIMIT: Duration = Duration::from_secs(600);

/// Seconds a function may run.
const TIMEOUT_S: u32 = 120;

/// A connection to one appliance.
#[derive(Debug, Clone)]
pub struct Client {
    agent: Agent,
    url: String,
}

/// How a call is to be served: the values of the headers that steer it.
#[derive(Debug, Clone, Copy)]
pub struct Way<'a> {
    /// `X-Mote-Start`: `cold`, `restore` or `warm`. It is an error if the call was served in another way.
    pub start: &'a str,
    /// `X-Mote-Restore-Mode`.
    pub restore_mode: Option<&'a str>,
}

/// A call's answer and what it cost.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The function's result.
    pub value: Value,
    /// Milliseconds as the client saw it.
    pub ms: f64,
    /// Milliseconds of each phase.
    pub phases: BTreeMap<String, f64>,
    /// What bringing back the memory took: faults, bytes, regions.
    pub paging: BTreeMap<String, f64>,
}

/// How a call ended that may be served in any way, or not at all.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// `X-Mote-Served-By`: `warm`, `restore`, `cold`, or nothing.
    pub by: String,
    /// The function's result, or what is said instead.
    pub value: Value,
    /// Whether that is the function's error.
    pub error: bool,
    /// Milliseconds as the client saw it.
    pub ms: f64,
    /// Milliseconds of each phase.
    pub phases: BTreeMap<String, f64>,
}

impl Client {
    /// A client of the appliance at `url`.
    pub fn new(url: &str) -> Self {
        let config = Agent::config_builder().timeout_global(Some(LIMIT)).http_status_as_error(false).build();
        Self { agent: Agent::new_with_config(config), url: url.to_owned() }
    }

    /// Makes a function of a zip.
    pub fn deploy(&self, name: &str, handler: &str, memory_mb: u32, zip: &[u8]) -> Outcome<()> {
        let body = json!({
            "FunctionName": name, "Runtime": "python3.11", "Handler": handler,
            "Role": "arn:aws:iam::000000000000:role/bench", "MemorySize": memory_mb, "Timeout": TIMEOUT_S,
            "Code": {"ZipFile": STANDARD.encode(zip)},
        });
        self.post("/2015-03-31/functions", &[], &body)?;
        Ok(())
    }

    /// Removes a function and what belongs to it.
    pub fn remove(&self, name: &str) -> Outcome<()> {
        let answer = self.agent.delete(format!("{}/2015-03-31/functions/{name}", self.url)).call()?;
        read(answer, name)?;
        Ok(())
    }

    /// Calls a function.
    pub fn invoke(&self, name: &str, event: &Value, way: Way<'_>) -> Outcome<Answer> {
        let path = format!("/2015-03-31/functions/{name}/invocations");
        // A warm call is asked for by not asking: the client wants to be served, and then sees by whom.
        let start = if way.start == "warm" { "auto" } else { way.start };
        let mut headers = vec![("X-Mote-Start", start)];
        headers.extend(way.restore_mode.map(|mode| ("X-Mote-Restore-Mode", mode)));
        let begun = Instant::now();
        let (headers, value) = self.post(&path, &headers, event)?;
        let ms = begun.elapsed().as_secs_f64() * 1000.0;
        let by = header(&headers, "x-mote-served-by");
        if headers.contains_key("x-amz-function-error") {
            return Err(format!("{name} failed: {value}").into());
        }
        if by != way.start {
            return Err(format!("{name} was served by '{by}' instead of '{}': {value}", way.start).into());
        }
        let phases = figures(header(&headers, "x-mote-phases"), ";dur=");
        let paging = figures(header(&headers, "x-mote-paging"), "=");
        Ok(Answer { value, ms, phases, paging })
    }

    /// Calls a function, to be served as it comes. Only a connection that breaks is an error.
    pub fn call(&self, name: &str, event: &Value) -> Outcome<Reply> {
        let url = format!("{}/2015-03-31/functions/{name}/invocations", self.url);
        let begun = Instant::now();
        let request = self.agent.post(url).header("Content-Type", "application/json");
        let mut answer = request.send(event.to_string())?;
        let body = answer.body_mut().read_to_string()?;
        let ms = begun.elapsed().as_secs_f64() * 1000.0;
        let headers = answer.headers();
        Ok(Reply {
            status: answer.status().as_u16(),
            by: header(headers, "x-mote-served-by").to_owned(),
            error: headers.contains_key("x-amz-function-error"),
            phases: figures(header(headers, "x-mote-phases"), ";dur="),
            value: serde_json::from_str(&body).unwrap_or(Value::String(body)),
            ms,
        })
    }

    /// Puts idle sandboxes away.
    pub fn put_away(&self) -> Outcome<()> {
        read(self.agent.delete(format!("{}/system/sandboxes", self.url)).call()?, "sandboxes")?;
        Ok(())
    }

    /// Makes the function's snapshot from a call with this event, and what is built from it.
    pub fn record(&self, name: &str, event: &Value) -> Outcome<Value> {
        Ok(self.post(&format!("/system/snapshots/{name}/record"), &[], event)?.1)
    }

    /// Drops the pages of the function's snapshot from the appliance's page cache; an error if any stays.
    pub fn evict_cache(&self, name: &str) -> Outcome<()> {
        let (_, left) = self.post(&format!("/system/snapshots/{name}/evict-cache"), &[], &json!({}))?;
        if left["resident_pages"] == 0 {
            Ok(())
        } else {
            Err(format!("Pages of {name}'s snapshot stayed in the page cache: {left}").into())
        }
    }

    /// What the appliance says about itself.
    pub fn status(&self) -> Outcome<Value> {
        self.get("/system/status")
    }

    /// Every sandbox that is alive.
    pub fn sandboxes(&self) -> Outcome<Value> {
        self.get("/system/sandboxes")
    }

    fn get(&self, path: &str) -> Outcome<Value> {
        Ok(read(self.agent.get(format!("{}{path}", self.url)).call()?, path)?.1)
    }

    fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Outcome<(HeaderMap, Value)> {
        let mut request =
            self.agent.post(format!("{}{path}", self.url)).header("Content-Type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        read(request.send(body.to_string())?, path)
    }
}

/// Headers and JSON of a successful answer.
fn read(mut answer: Response<Body>, what: &str) -> Outcome<(HeaderMap, Value)> {
    let body = answer.body_mut().read_to_string()?;
    if !answer.status().is_success() {
        return Err(format!("{what} answered {}: {body}", answer.status()).into());
    }
    let value = if body.is_empty() { Value::Null } else { serde_json::from_str(&body)? };
    Ok((answer.headers().clone(), value))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

/// Reads `restore;dur=12.3, invoke;dur=4.5`, or the same with another word between name and number. What comes twice is
/// added up.
fn figures(text: &str, between: &str) -> BTreeMap<String, f64> {
    let mut figures = BTreeMap::new();
    for (name, number) in text.split(',').filter_map(|entry| entry.trim().split_once(between)) {
        if let Ok(number) = number.parse::<f64>() {
            *figures.entry(name.to_owned()).or_default() += number;
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_headers() {
        let phases =
            figures("verify;dur=0.5, restore;dur=12.25,restore;dur=1.00, odd, invoke;dur=x", ";dur=");
        assert_eq!(phases, BTreeMap::from([("restore".to_owned(), 13.25), ("verify".to_owned(), 0.5)]));
        let paging = figures("minor=12, major=3, read_bytes=4096", "=");
        assert!((paging["read_bytes"] - 4096.0).abs() < 1e-9 && paging.len() == 3);
        assert!(figures("", "=").is_empty());
    }
}
