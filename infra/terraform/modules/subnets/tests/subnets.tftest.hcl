variables {
  cidr  = "10.40.0.0/16"
  zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
}

run "a_quarter_for_each_zone_and_small_ones_from_the_last" {
  command = plan
  assert {
    condition = output.private == {
      eu-central-1a = "10.40.0.0/18"
      eu-central-1b = "10.40.64.0/18"
      eu-central-1c = "10.40.128.0/18"
    }
    error_message = "private subnets"
  }
  assert {
    condition = output.public == {
      eu-central-1a = "10.40.192.0/24"
      eu-central-1b = "10.40.193.0/24"
      eu-central-1c = "10.40.194.0/24"
    }
    error_message = "public subnets"
  }
  assert {
    condition = output.data == {
      eu-central-1a = "10.40.196.0/24"
      eu-central-1b = "10.40.197.0/24"
      eu-central-1c = "10.40.198.0/24"
    }
    error_message = "data subnets"
  }
}

run "a_thousand_nodes_have_room" {
  command = plan
  assert {
    condition     = output.max_nodes >= 1000
    error_message = "a /16 shall hold 1,000 nodes of 16 Pods each"
  }
}

run "the_smallest_network_still_has_eight_small_subnets" {
  command = plan
  variables {
    cidr = "10.40.0.0/19"
  }
  assert {
    condition     = output.private["eu-central-1b"] == "10.40.8.0/21" && output.data["eu-central-1c"] == "10.40.30.0/24"
    error_message = "a /19 is cut into three /21 and eight /24"
  }
}

run "nothing_overlaps" {
  command = plan
  variables {
    cidr = "172.16.64.0/18"
  }
  # If the first addresses are sorted as numbers, each is at least the size of the previous subnet away from it.
  assert {
    condition = length(distinct([for network in concat(values(output.private), values(output.public), values(output.data)) :
    split("/", network)[0]])) == 9
    error_message = "nine subnets begin at nine addresses"
  }
  assert {
    condition     = alltrue([for network in concat(values(output.public), values(output.data)) : startswith(network, "172.16.11")])
    error_message = "small ones lie in the last quarter, 172.16.112.0/20"
  }
}

run "a_network_with_bits_behind_its_mask_is_refused" {
  command = plan
  variables {
    cidr = "10.40.1.0/16"
  }
  expect_failures = [var.cidr]
}

run "a_small_network_is_refused" {
  command = plan
  variables {
    cidr = "10.40.0.0/20"
  }
  expect_failures = [var.cidr]
}

run "a_public_network_is_refused" {
  command = plan
  variables {
    cidr = "8.8.0.0/16"
  }
  expect_failures = [var.cidr]
}

run "one_zone_is_refused" {
  command = plan
  variables {
    zones = ["eu-central-1a"]
  }
  expect_failures = [var.zones]
}

run "the_same_zone_twice_is_refused" {
  command = plan
  variables {
    zones = ["eu-central-1a", "eu-central-1a"]
  }
  expect_failures = [var.zones]
}
