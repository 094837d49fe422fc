"""The declared network matrix is validated, and its mistakes are reported with file and field."""

import pytest
import yaml

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.lint.network_matrix import load_network_matrix
from tests.manifests.render import K8S

TABLE = K8S / "components" / "network" / "allowed.yaml"


@pytest.mark.parametrize(("change", "text"), [
    (lambda table: table["allowed"][0].update({"to": "dsn"}), "allowed.0: unknown peer 'dsn' (known are: "),
    (lambda table: table["allowed"][2].pop("ports"), "allowed.2.ports: field required"),
    (lambda table: table["allowed"][2].update(ports=["8265"]), "allowed.2.ports"),
    (lambda table: table["allowed"][2].update(when="aws"), "allowed.2.when: extra inputs"),
    (lambda table: table["outside"]["dns"].update(addresses=["10.0.0"]), "outside.dns.addresses.0"),
    (lambda table: table.pop("ours"), "ours: field required"),
])  # fmt: skip
def test_a_mistake_in_the_network_matrix_is_reported_in_one_line(change, text, tmp_path):
    table = yaml.safe_load(TABLE.read_text())
    change(table)
    path = tmp_path / "allowed.yaml"
    path.write_text(yaml.safe_dump(table))
    with pytest.raises(ConfigError) as raised:
        load_network_matrix(path)
    assert text in str(raised.value) and str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_our_table_is_read_as_it_is():
    assert load_network_matrix(TABLE) == yaml.safe_load(TABLE.read_text())
