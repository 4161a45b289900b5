//! The parts as a CycloneDX document.

use cyclonedx_bom::models::attached_text::AttachedText;
use cyclonedx_bom::models::code::{Diff, Patch, PatchClassification, Patches};
use cyclonedx_bom::models::component::{Classification, Pedigree};
use cyclonedx_bom::models::dependency::{Dependencies, Dependency};
use cyclonedx_bom::models::external_reference::{
    ExternalReference, ExternalReferenceType, ExternalReferences, Uri as Address,
};
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::license::{LicenseChoice, Licenses};
use cyclonedx_bom::models::property::{Properties, Property};
use cyclonedx_bom::models::tool::{Tool, Tools};
use cyclonedx_bom::prelude::{
    Bom, Component, Components, DateTime, Metadata, Purl, SpecVersion, Uri, UrnUuid, Validate as _,
};
use sha2::{Digest, Sha256};
use thiserror::Error;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::part::{Kind, Licence, Part};
use super::texts;
use crate::files;

const VERSION: SpecVersion = SpecVersion::V1_5;

/// What the whole is called among the parts.
const WHOLE: &str = "mote";

/// Why there is no document.
#[derive(Debug, Error)]
pub enum BomError {
    /// A time that no calendar has.
    #[error("{0} is no time")]
    Time(i64),
    /// The document would break the rules of its format.
    #[error("The list of parts breaks the rules of CycloneDX: {0}")]
    Invalid(String),
    /// The document cannot be written.
    #[error("Cannot write the list of parts")]
    Write(#[from] cyclonedx_bom::errors::JsonWriteError),
}

/// What is said of the whole.
#[derive(Debug, Clone)]
pub struct About {
    /// Version of the workspace.
    pub version: String,
    /// `git describe` of the sources.
    pub build: String,
    /// Seconds since 1970: of the sources, never of now.
    pub time: Option<i64>,
    /// Digest of the folder with the licence texts.
    pub texts: String,
}

/// The document. The same parts give the same bytes; its serial number is made of all the rest of it.
///
/// # Errors
/// When the parts break the format's rules.
pub fn document(parts: &[Part], about: &About) -> Result<Vec<u8>, BomError> {
    let mut bom = Bom {
        version: 1,
        serial_number: None,
        metadata: Some(metadata(about)?),
        components: Some(Components(parts.iter().map(component).collect())),
        services: None,
        external_references: None,
        dependencies: Some(dependencies(parts)),
        compositions: None,
        properties: None,
        vulnerabilities: None,
        signature: None,
        annotations: None,
        formulation: None,
        spec_version: VERSION,
    };
    let mut content = Vec::new();
    bom.clone().output_as_json(&mut content, VERSION)?;
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&Sha256::digest(&content)[..16]);
    bom.serial_number = Some(UrnUuid::from(uuid::Builder::from_custom_bytes(bytes).into_uuid()));

    let result = bom.validate_version(VERSION);
    if !result.passed() {
        return Err(BomError::Invalid(format!("{:?}", result.errors().collect::<Vec<_>>())));
    }
    let mut text = Vec::new();
    bom.output_as_json(&mut text, VERSION)?;
    text.push(b'\n');
    Ok(text)
}

fn metadata(about: &About) -> Result<Metadata, BomError> {
    let time = match about.time {
        None => None,
        Some(time) => {
            let wrong = || BomError::Time(time);
            let date = OffsetDateTime::from_unix_timestamp(time).map_err(|_| wrong())?;
            let text = date.format(&Rfc3339).map_err(|_| wrong())?;
            Some(DateTime::try_from(text).map_err(|_| wrong())?)
        }
    };
    let mut whole =
        Component::new(Classification::OperatingSystem, "Mote", &about.version, Some(WHOLE.to_owned()));
    whole.licenses = Some(Licenses(vec![LicenseChoice::expression("Apache-2.0")]));
    whole.properties = Some(Properties(vec![
        Property::new("mote:build", &about.build),
        Property::new("mote:licences-sha256", &about.texts),
    ]));
    let mut metadata = Metadata { timestamp: time, component: Some(whole), ..Metadata::default() };
    metadata.tools = Some(Tools::List(vec![Tool::new("Mote", "image", env!("CARGO_PKG_VERSION"))]));
    Ok(metadata)
}

fn component(part: &Part) -> Component {
    let sort = match part.kind {
        Kind::Binary => Classification::Application,
        Kind::Kernel => Classification::OperatingSystem,
        Kind::Own | Kind::Crate | Kind::Standard | Kind::Debian | Kind::Linked | Kind::Wheel => {
            Classification::Library
        }
    };
    let mut component = Component::new(sort, &part.name, &part.version, Some(part.id.clone()));
    component.purl = part.purl.parse::<Purl>().ok();
    component.licenses = Some(Licenses(match &part.licence {
        Licence::Expression(expression) => vec![LicenseChoice::expression(expression)],
        Licence::Names(names) => names.iter().map(|name| LicenseChoice::license(name)).collect(),
    }));
    component.hashes = part
        .sha256
        .as_ref()
        .map(|sum| Hashes(vec![Hash { alg: HashAlgorithm::SHA_256, content: HashValue(sum.clone()) }]));
    let mut properties: Vec<Property> =
        part.places.iter().map(|place| Property::new("mote:place", place)).collect();
    if let Some(source) = &part.source {
        properties.push(Property::new("mote:source-package", &source.name));
        properties.push(Property::new("mote:source-version", &source.version));
        let address = Address::Url(Uri::new(&texts::snapshot(&source.name, &source.version)));
        let mut reference = ExternalReference::new(ExternalReferenceType::Distribution, address);
        reference.comment = Some("source package".to_owned());
        component.external_references = Some(ExternalReferences(vec![reference]));
    }
    if let Some(config) = &part.config {
        properties.push(Property::new("mote:configuration", &config.title));
        let sum = files::hex(&Sha256::digest(&config.text));
        properties.push(Property::new("mote:configuration-sha256", &sum));
    }
    for patch in &part.patches {
        properties.push(Property::new("mote:patch", &patch.title));
    }
    component.properties = (!properties.is_empty()).then_some(Properties(properties));
    component.pedigree = (!part.patches.is_empty()).then(|| Pedigree {
        ancestors: None,
        descendants: None,
        variants: None,
        commits: None,
        patches: Some(Patches(part.patches.iter().map(|patch| self::patch(&patch.text)).collect())),
        notes: None,
    });
    component
}

fn patch(text: &str) -> Patch {
    let diff = Diff { text: Some(AttachedText::new(None, text)), url: None };
    Patch { patch_type: PatchClassification::Unofficial, diff: Some(diff), resolves: None }
}

/// Who is linked with whom; the whole has all that is not in something else, and every binary what all of them have.
fn dependencies(parts: &[Part]) -> Dependencies {
    let of = |kinds: &[Kind]| {
        let mut ids: Vec<String> =
            parts.iter().filter(|part| kinds.contains(&part.kind)).map(|part| part.id.clone()).collect();
        ids.sort();
        ids
    };
    let whole = Dependency {
        dependency_ref: WHOLE.to_owned(),
        dependencies: of(&[Kind::Binary, Kind::Kernel, Kind::Debian, Kind::Wheel]),
    };
    let each = parts.iter().map(|part| {
        let mut needs = part.needs.clone();
        if part.kind == Kind::Binary {
            needs.extend(of(&[Kind::Standard, Kind::Linked]));
        }
        needs.sort();
        needs.dedup();
        Dependency { dependency_ref: part.id.clone(), dependencies: needs }
    });
    Dependencies(std::iter::once(whole).chain(each).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::part::{Source, Text, address};
    use super::*;

    fn about() -> About {
        About { version: "1".into(), build: "abc".into(), time: Some(1_700_000_000), texts: "00".into() }
    }

    fn parts() -> Vec<Part> {
        let mut hostd = Part::new(Kind::Binary, "hostd", "1", "pkg:generic/hostd@1".into());
        hostd.licence = Licence::Expression("Apache-2.0".into());
        hostd.needs = vec!["pkg:cargo/serde@1.0.0".into()];
        let mut serde = Part::new(Kind::Crate, "serde", "1.0.0", "pkg:cargo/serde@1.0.0".into());
        serde.licence = Licence::Expression("MIT OR Apache-2.0".into());
        serde.sha256 = Some("ab".repeat(32));
        let purl = address("deb", Some("debian"), "libc6-dev", "2.36-9", &[("arch", "amd64")]).unwrap();
        let mut libc = Part::new(Kind::Linked, "libc6-dev", "2.36-9", purl);
        libc.licence = Licence::Names(vec!["LGPL-2.1+".into()]);
        libc.source = Some(Source { name: "glibc".into(), version: "2.36-9".into() });
        let mut kernel = Part::new(Kind::Kernel, "linux-host", "6.12", "pkg:deb/debian/linux@6.12".into());
        kernel.id = "kernel-host".into();
        kernel.licence = Licence::Expression("GPL-2.0-only WITH Linux-syscall-note".into());
        kernel.config = Some(Text::new("host.defconfig", "CONFIG_A=y"));
        kernel.patches.push(Text::new("host.patches/1.patch", "--- a"));
        vec![hostd, serde, libc, kernel]
    }

    fn json(parts: &[Part]) -> serde_json::Value {
        serde_json::from_slice(&document(parts, &about()).unwrap()).unwrap()
    }

    #[test]
    fn a_document_is_read_back_and_says_it_all() {
        let bytes = document(&parts(), &about()).unwrap();
        let back = Bom::parse_from_json(&bytes[..]).unwrap();
        assert!(back.validate_version(VERSION).passed());
        let json = json(&parts());
        assert_eq!(json["bomFormat"], "CycloneDX");
        assert_eq!(json["specVersion"], "1.5");
        assert_eq!(json["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
        let components = json["components"].as_array().unwrap();
        assert_eq!(components[1]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(components[1]["hashes"][0]["alg"], "SHA-256");
        assert_eq!(components[2]["licenses"][0]["license"]["name"], "LGPL-2.1+");
        assert_eq!(components[3]["pedigree"]["patches"].as_array().unwrap().len(), 1);
        let dependencies = json["dependencies"].as_array().unwrap();
        assert_eq!(dependencies[0]["dependsOn"], serde_json::json!(["kernel-host", "pkg:generic/hostd@1"]));
        assert_eq!(dependencies[1]["dependsOn"].as_array().unwrap().len(), 2, "serde and the C library");
    }

    #[test]
    fn the_same_parts_are_the_same_bytes_and_others_another_serial_number() {
        assert!(document(&parts(), &about()).unwrap() == document(&parts(), &about()).unwrap());
        let mut serials = std::collections::BTreeSet::from([json(&parts())["serialNumber"].to_string()]);
        let mut changed = parts();
        changed[1].sha256 = Some("cd".repeat(32));
        serials.insert(json(&changed)["serialNumber"].to_string());
        changed.pop();
        serials.insert(json(&changed)["serialNumber"].to_string());
        let other = About { texts: "01".into(), ..about() };
        let text = document(&parts(), &other).unwrap();
        serials
            .insert(serde_json::from_slice::<serde_json::Value>(&text).unwrap()["serialNumber"].to_string());
        assert_eq!(serials.len(), 4);
    }

    #[test]
    fn what_breaks_the_rules_is_refused() {
        let mut twice = parts();
        twice.push(twice[0].clone());
        assert!(matches!(document(&twice, &about()), Err(BomError::Invalid(_))));
        let mut unknown = parts();
        unknown[0].needs.push("pkg:cargo/nowhere@1".into());
        assert!(matches!(document(&unknown, &about()), Err(BomError::Invalid(_))));
        let late = About { time: Some(i64::MAX), ..about() };
        assert!(matches!(document(&parts(), &late), Err(BomError::Time(_))));
    }

    proptest! {
        #[test]
        fn any_part_is_a_document_or_an_error(name in ".*", licence in ".*", sum in ".*") {
            let mut parts = parts();
            parts[0].name = name;
            parts[1].licence = Licence::Expression(licence);
            parts[1].sha256 = Some(sum);
            let _ = document(&parts, &about());
        }
    }
}
