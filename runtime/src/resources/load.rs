//! Directories become what their documents say, each with its place.

use super::Form;
use super::check;
use super::configuration;
use super::dapr;
use super::fields::{Environment, Fields, Report};
use super::house::{self, AppRead, GatewayRead};
use super::yaml::{self, Document, File};
use super::{
    AppPlan, ComponentPlan, ConfigurationPlan, EndpointPlan, Gateway, LinkPlan, MqttUserPlan, Plan,
    SubscriptionPlan,
};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Largest resource file: they are written by people.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 20;

/// Most resource files in one directory.
pub(crate) const FILES_MAX: usize = 1024;

/// What the command line wants, before resources are read.
pub(crate) struct Wanted {
    /// How it was started.
    pub(crate) form: Form,
    /// Directories or single files of resources.
    pub(crate) resources: Vec<PathBuf>,
    /// Configuration files of the app of the command line, each over the one before.
    pub(crate) configs: Vec<PathBuf>,
    /// The app of the command line.
    pub(crate) app: Option<AppPlan>,
    /// Components that exist unless a resource has their name.
    pub(crate) defaults: Vec<ComponentPlan>,
    /// Defaults of the gateway's settings.
    pub(crate) gateway: Gateway,
    /// What flags say of them.
    pub(crate) flags: GatewayFlags,
}

impl Wanted {
    /// What `pillion serve` wants without flags, over these defaults of the gateway's settings.
    pub(crate) fn served(resources: Vec<PathBuf>, gateway: Gateway) -> Self {
        Self {
            form: Form::Gateway,
            resources,
            configs: Vec::new(),
            app: None,
            defaults: Vec::new(),
            gateway,
            flags: GatewayFlags::default(),
        }
    }
}

/// Flags that come before a Gateway resource; `None` was not given.
#[derive(Default)]
pub(crate) struct GatewayFlags {
    /// `--mqtt-listen`; inside, `None` is off.
    pub(crate) mqtt: Option<Option<SocketAddr>>,
    /// Where the MQTT door is opened if neither a flag nor a resource speaks of it.
    pub(crate) mqtt_default: Option<SocketAddr>,
    /// Metrics; inside, `None` is off.
    pub(crate) metrics: Option<Option<SocketAddr>>,
    /// `--max-body-size`.
    pub(crate) body_bytes_max: Option<usize>,
    /// `--read-buffer-size`.
    pub(crate) header_bytes_max: Option<usize>,
    /// `--dapr-graceful-shutdown-seconds`.
    pub(crate) drain_timeout: Option<Duration>,
}

/// What reading a resource depends on besides its text.
pub(crate) struct Surroundings<'a> {
    /// Environment variables.
    pub(crate) env: Environment<'a>,
    /// How it was started: daprd's form forgives what daprd forgives.
    pub(crate) form: Form,
    /// `NAMESPACE`, if set.
    pub(crate) namespace: Option<String>,
    /// For the templates in component settings.
    pub(crate) app_id: String,
}

impl Surroundings<'_> {
    /// The namespace of what names none.
    pub(crate) fn namespace_or_default(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }
}

/// Something read, and where.
pub(crate) struct Placed<T> {
    /// It.
    pub(crate) value: T,
    /// Its document; flags and defaults have none.
    document: Option<Rc<Document>>,
}

impl<T> Placed<T> {
    /// Without a place.
    pub(crate) fn unplaced(value: T) -> Self {
        Self { value, document: None }
    }

    /// Something made of it, at the same place.
    pub(crate) fn map<U>(self, make: impl FnOnce(T) -> U) -> Placed<U> {
        Placed { value: make(self.value), document: self.document }
    }

    /// `file:line` of the deepest known part of a path.
    pub(crate) fn place(&self, path: &str) -> String {
        match &self.document {
            Some(document) => document.place_at(path),
            None => String::from("command line"),
        }
    }
}

/// Everything that was read.
#[derive(Default)]
pub(crate) struct Found {
    /// At most one is right.
    pub(crate) gateways: Vec<Placed<GatewayRead>>,
    /// Apps.
    pub(crate) apps: Vec<Placed<AppRead>>,
    /// Components.
    pub(crate) components: Vec<Placed<ComponentPlan>>,
    /// Subscriptions.
    pub(crate) subscriptions: Vec<Placed<SubscriptionPlan>>,
    /// Named addresses.
    pub(crate) endpoints: Vec<Placed<EndpointPlan>>,
    /// Users of the MQTT door.
    pub(crate) mqtt_users: Vec<Placed<MqttUserPlan>>,
    /// Links.
    pub(crate) links: Vec<Placed<LinkPlan>>,
    /// Configurations by name.
    pub(crate) configurations: Vec<Placed<(String, ConfigurationPlan)>>,
}

/// Reads everything and makes the plan of it. What is wrong is in the report.
pub(crate) fn plan(mut wanted: Wanted, env: Environment<'_>, report: &Report) -> Plan {
    let mut documents = Vec::new();
    for path in &wanted.resources {
        for file in files(path, report) {
            documents.extend(text(&file, report).map(|file| parsed(file, report)));
        }
    }
    let documents: Vec<Document> = documents.into_iter().flatten().collect();
    let app_id = match &wanted.app {
        Some(app) => app.id.clone(),
        None => gateway_name(&documents).unwrap_or_else(|| wanted.gateway.name.clone()),
    };
    let around = Surroundings {
        env,
        form: wanted.form,
        namespace: env("NAMESPACE").filter(|namespace| !namespace.is_empty()),
        app_id,
    };
    if let Some(app) = &mut wanted.app {
        for path in &wanted.configs {
            read_configuration(path, &around, &mut app.configuration, report);
        }
    }
    let mut found = Found::default();
    for document in documents {
        read_document(document, &wanted, &around, &mut found, report);
    }
    check::settle(found, wanted, report)
}

/// The files of a directory in the order of their names; a file is its own list.
fn files(path: &Path, report: &Report) -> Vec<PathBuf> {
    let shown = path.display();
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => {
            report.problem(format!("{shown}: {error}: name a directory of resources"));
            return Vec::new();
        }
    };
    let is_yaml = |path: &PathBuf| {
        path.extension().is_some_and(|end| end == "yaml" || end == "yml") && path.is_file()
    };
    let mut files: Vec<_> =
        entries.flatten().map(|entry| entry.path()).filter(is_yaml).take(FILES_MAX + 1).collect();
    if files.len() > FILES_MAX {
        report.problem(format!("{shown}: more than {FILES_MAX} resource files: remove some"));
    }
    files.sort_unstable();
    files
}

fn text(path: &Path, report: &Report) -> Option<Arc<File>> {
    let shown = path.display();
    let problem = |text: String| {
        report.problem(format!("{shown}: {text}"));
        None
    };
    match std::fs::metadata(path) {
        Ok(file) if file.len() > FILE_BYTES_MAX => {
            return problem(format!("larger than {FILE_BYTES_MAX} bytes: split it"));
        }
        Err(error) => return problem(format!("cannot be read: {error}")),
        Ok(_) => {}
    }
    match std::fs::read(path).map(String::from_utf8) {
        Ok(Ok(text)) => Some(Arc::new(File { path: path.into(), text })),
        Ok(Err(error)) => {
            let before = error.utf8_error().valid_up_to();
            let line = 1 + error.as_bytes().iter().take(before).filter(|b| **b == b'\n').count();
            report.problem(format!("{shown}:{line}: not UTF-8: save the file as UTF-8"));
            None
        }
        Err(error) => problem(format!("cannot be read: {error}")),
    }
}

fn parsed(file: Arc<File>, report: &Report) -> Vec<Document> {
    let shown = file.path.display().to_string();
    let (documents, malformed) = yaml::documents(file);
    if let Some(yaml::Malformed { line, reason }) = malformed {
        report.problem(format!("{shown}:{line}: not valid YAML: {reason}"));
    }
    documents
}

fn read_configuration(
    path: &Path,
    around: &Surroundings<'_>,
    plan: &mut ConfigurationPlan,
    report: &Report,
) {
    let Some(file) = text(path, report) else { return };
    for mut document in parsed(file, report) {
        configuration::expand_environment(&mut document, around.env);
        let root = Fields::of(&document, report, false);
        if root.text("kind").is_some_and(|kind| kind != "Configuration") {
            continue;
        }
        configuration::read(&root, plan);
        let _ = (root.node("apiVersion"), root.node("metadata"));
        root.finish();
    }
}

/// The name of the Gateway among the documents, which stands for the app id in templates. What is
/// wrong with it is reported when it is read.
fn gateway_name(documents: &[Document]) -> Option<String> {
    let aside = Report::default();
    let root = |document| Fields::of(document, &aside, true);
    let gateway = documents.iter().map(root).find(|root| kind_of(root) == Some(Kind::Gateway))?;
    gateway.map("metadata")?.text("name").filter(|name| !name.is_empty())
}

/// The kinds there are.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Component,
    Configuration,
    Resiliency,
    HttpEndpoint,
    Subscription { v2: bool },
    Gateway,
    App,
    MqttUser,
    Link,
}

/// The kind of a document; `None` is one for somebody else.
fn kind_of(root: &Fields<'_>) -> Option<Kind> {
    let (version, kind) = (root.text("apiVersion")?, root.text("kind")?);
    match (version.as_str(), kind.as_str()) {
        ("dapr.io/v1alpha1", "Component") => Some(Kind::Component),
        ("dapr.io/v1alpha1", "Configuration") => Some(Kind::Configuration),
        ("dapr.io/v1alpha1", "Resiliency") => Some(Kind::Resiliency),
        ("dapr.io/v1alpha1", "HTTPEndpoint") => Some(Kind::HttpEndpoint),
        ("dapr.io/v1alpha1", "Subscription") => Some(Kind::Subscription { v2: false }),
        ("dapr.io/v2alpha1", "Subscription") => Some(Kind::Subscription { v2: true }),
        ("pillion/v1alpha1", "Gateway") => Some(Kind::Gateway),
        ("pillion/v1alpha1", "App") => Some(Kind::App),
        ("pillion/v1alpha1", "MqttUser") => Some(Kind::MqttUser),
        ("pillion/v1alpha1", "Link") => Some(Kind::Link),
        ("pillion/v1alpha1", _) => {
            root.problem("kind", format!("is '{kind}': write Gateway, App, MqttUser or Link"));
            None
        }
        (version, _) if version.starts_with("pillion/") => {
            root.problem("apiVersion", format!("is '{version}': write pillion/v1alpha1"));
            None
        }
        _ => None,
    }
}

fn read_document(
    mut document: Document,
    wanted: &Wanted,
    around: &Surroundings<'_>,
    found: &mut Found,
    report: &Report,
) {
    let Some(kind) = kind_of(&Fields::of(&document, report, false)) else { return };
    if kind == Kind::Configuration {
        if wanted.form != Form::Gateway {
            // As in Dapr: the app of the command line takes its Configuration from --config.
            return;
        }
        configuration::expand_environment(&mut document, around.env);
    }
    let strict = matches!(kind, Kind::Gateway | Kind::App | Kind::MqttUser | Kind::Link);
    let document = Rc::new(document);
    let root = Fields::of(&document, report, strict);
    let _ = (root.node("apiVersion"), root.node("kind"));
    // One image is flashed onto many gateways: a Gateway without a name has the machine's.
    let nameless = kind == Kind::Gateway;
    let metadata = if nameless { root.map("metadata") } else { root.required_map("metadata") };
    let (mut name, mut namespace) = (None, None);
    if let Some(metadata) = metadata {
        name = if nameless { metadata.text("name") } else { Some(metadata.required("name")) };
        namespace = metadata.text("namespace").filter(|namespace| !namespace.is_empty());
        if strict {
            let _ = (metadata.node("labels"), metadata.node("annotations"));
            metadata.finish();
        }
    }
    let name = match name {
        Some(name) if !(nameless && name.is_empty()) => name,
        _ if nameless => wanted.gateway.name.clone(),
        _ => return,
    };
    let elsewhere =
        matches!((&namespace, &around.namespace), (Some(its), Some(ours)) if its != ours);
    if (name.is_empty() && !nameless) || elsewhere {
        return;
    }
    let place = |document: &Rc<Document>| Some(document.clone());
    macro_rules! keep {
        ($list:ident, $value:expr) => {
            if let Some(value) = $value {
                found.$list.push(Placed { value, document: place(&document) });
            }
        };
    }
    match kind {
        Kind::Component => keep!(components, dapr::component(&root, &name, around)),
        Kind::Subscription { v2 } => keep!(subscriptions, dapr::subscription(&root, &name, v2)),
        Kind::HttpEndpoint => keep!(endpoints, dapr::endpoint(&root, &name, around)),
        Kind::Resiliency => dapr::resiliency(&root, &name),
        Kind::Configuration => {
            keep!(configurations, Some((name.clone(), house::configuration(&root))))
        }
        Kind::Gateway => {
            keep!(gateways, Some(house::gateway(&root, &name, wanted.gateway.clone())))
        }
        Kind::App => keep!(apps, Some(house::app(&root, &name, namespace.as_deref(), around))),
        Kind::MqttUser => keep!(mqtt_users, house::mqtt_user(&root, &name, around)),
        Kind::Link => keep!(links, house::link(&root, &name)),
    }
    root.finish();
}
