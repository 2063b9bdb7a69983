"""A real Prometheus evaluates the rules over a real cluster, with errors: every rule and every panel has a series, no alert fires."""

import contextlib
import json
import re
import time

import grpc
import promql_parser
import pytest
from certificates import Authority, token_line
from client import Client
from cluster import wait_until
from promql import RULE_FILES, conditions, load_alerts, load_rules, selectors, substituted
from prometheus import COMPONENTS, Prometheus, cluster_with_ports, get
from test_dashboards import UIDS, load

TOKEN = "secret"


def flags_of_tls(folder):
    """(flags by component as Cluster takes them, credentials of a client): TLS on all ports and tokens, as in production."""
    authority = Authority(folder / "authority")
    identities = {role: authority.issue(role, [role], days=29) for role in COMPONENTS}
    flags = {f"{role.split('-', maxsplit=1)[0]}_flags": identity.flags() for role, identity in identities.items()}
    (folder / "tokens").write_text(token_line("operator", TOKEN), encoding="utf-8")
    flags["router_flags"] = [*flags["router_flags"], f"--token_file={folder / 'tokens'}"]
    return flags, identities["router"].credentials(TOKEN, show=False)


def cause_errors(client):
    """Codes of a request that is wrong, and of some of which one finds the queue full, if they come soon enough."""
    codes = []

    def end(call):
        try:
            for _ in call:
                pass
        except grpc.RpcError as error:
            codes.append(error.code().name)

    end(client.inference.Generate(client.request(ids=[10**6]), timeout=20))
    requests = [client.request(ids=[1, 2], max_new_tokens=count, ignore_eos=True) for count in (60, 1, 1, 1)]
    for call in [client.inference.Generate(request, timeout=20) for request in requests]:
        end(call)
    return set(codes)


@pytest.fixture(scope="module")
def prometheus(stubs, tmp_path_factory):
    flags, credentials = flags_of_tls(tmp_path_factory.mktemp("live"))
    flags["router_flags"].append("--queue_size=1")
    flags["attention_flags"].append("--max_sequences=1")
    with contextlib.ExitStack() as stack:
        cluster, ports = stack.enter_context(cluster_with_ports(credentials=credentials, **flags))
        server = stack.enter_context(Prometheus(ports, RULE_FILES))
        client = stack.enter_context(Client(cluster.target, credentials=credentials))
        end, codes = time.monotonic() + 4, set()
        while time.monotonic() < end:  # rates want more than one scrape with traffic
            client.generate(ids=list(range(40)), max_new_tokens=8, ignore_eos=True)
            codes |= cause_errors(client)
        assert codes == {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
        yield server


def has_series(prometheus, expression):
    """Within what scrapes and rules that build upon each other take."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: prometheus.query(expression))
    return bool(prometheus.query(expression))


def sooner(expr):
    """An hour ago there was nothing; some seconds ago there was."""
    return re.sub(r"\boffset \w+", "offset 2s", expr)


def test_nothing_fires_at_once(prometheus):
    """Errors of some seconds are within every alert's patience. First: minutes later they would not be."""
    status, body = get(prometheus.port, "/api/v1/alerts")
    assert status == 200
    alerts = json.loads(body)["data"]["alerts"]
    assert not [alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"], alerts


@pytest.mark.parametrize("rule", [rule for rule in load_rules() if not rule.is_alert], ids=lambda rule: rule.name)
def test_every_recording_rule_has_a_series(prometheus, rule):
    assert has_series(prometheus, rule.name), rule.expr


@pytest.mark.parametrize("rule", load_rules(), ids=lambda rule: rule.name)
def test_every_selection_has_a_series(prometheus, rule):
    """Also one that `or` stands in for while it selects nothing."""
    for selection in {one.prettify() for one in selectors(promql_parser.parse(sooner(rule.expr)))}:
        assert has_series(prometheus, selection), selection


@pytest.mark.parametrize("alert", load_alerts(), ids=lambda alert: alert.name)
def test_every_condition_of_an_alert_has_a_series(prometheus, alert):
    for condition in conditions(sooner(alert.expr)):
        assert has_series(prometheus, condition), condition


def test_errors_are_counted_as_such(prometheus):
    """The full queue is an error of the fleet, the wrong request is not."""
    assert has_series(prometheus, "namespace:m1_router_errors:ratio_rate5m")
    per_code = "sum(rate(m1_router_requests_total{code%s}[5m]))"
    everything, wrong = (prometheus.query(per_code % matcher)[0] for matcher in ('!=""', '="INVALID_ARGUMENT"'))
    assert 0 < wrong < everything
    [ratio] = prometheus.query("namespace:m1_router_errors:ratio_rate5m")
    assert 0 < ratio < 1 - wrong / everything


@pytest.mark.parametrize("uid", UIDS)
def test_every_panel_has_a_series(prometheus, uid):
    expressions = [substituted(target["expr"]) for panel in load(uid)["panels"] for target in panel["targets"]]
    assert expressions

    def without_series():
        return [expression for expression in expressions if not prometheus.query(expression)]

    with contextlib.suppress(AssertionError):
        wait_until(lambda: not without_series())
    assert not without_series()
