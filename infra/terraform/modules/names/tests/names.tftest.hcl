variables {
  name       = "emoji-ldm"
  account_id = "123456789012"
}

run "names_are_those_that_the_manifests_say" {
  command = plan
  assert {
    condition     = output.cluster == "emoji-ldm" && output.node_role == "emoji-ldm-node"
    error_message = "k8s/components/karpenter/class.yaml says emoji-ldm and emoji-ldm-node"
  }
  assert {
    condition     = output.discovery["karpenter.sh/discovery"] == "emoji-ldm"
    error_message = "Karpenter looks for the tag karpenter.sh/discovery: emoji-ldm"
  }
}

run "the_longest_name_still_makes_valid_buckets" {
  command = plan
  variables {
    name = "a2345678901234567890"
  }
  assert {
    condition     = alltrue([for bucket in [output.store, output.access_logs, output.state] : can(regex("^[a-z0-9-]{3,63}$", bucket))])
    error_message = "a bucket's name has at most 63 characters"
  }
}

run "own_tags_are_kept_and_the_project_is_added" {
  command = plan
  variables {
    tags = { team = "art" }
  }
  assert {
    condition     = output.tags == { team = "art", project = "emoji-ldm", managed-by = "terraform" }
    error_message = "tags are merged"
  }
}

run "a_name_with_capitals_is_refused" {
  command = plan
  variables {
    name = "Emoji"
  }
  expect_failures = [var.name]
}

run "a_name_of_21_characters_is_refused" {
  command = plan
  variables {
    name = "a23456789012345678901"
  }
  expect_failures = [var.name]
}

run "an_account_of_eleven_digits_is_refused" {
  command = plan
  variables {
    account_id = "12345678901"
  }
  expect_failures = [var.account_id]
}

run "a_tag_of_amazon_is_refused" {
  command = plan
  variables {
    tags = { "aws:team" = "art" }
  }
  expect_failures = [var.tags]
}
