variables {
  partition     = "aws"
  region        = "eu-central-1"
  account_id    = "123456789012"
  cluster       = "emoji-ldm"
  bucket        = "emoji-ldm-123456789012-store"
  store_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/0a1b2c3d"
  node_role     = "emoji-ldm-node"
  queue         = "emoji-ldm-karpenter"
}

run "caption_reads_images_and_writes_captions_only" {
  command = plan
  assert {
    condition = one([for s in jsondecode(output.store.caption).Statement : s.Resource if s.Sid == "Write"]) == [
      for key in [".write-check-*", "branches/*/tables/captions/*", "logs/caption/*", "runs/*/stages/*", "store.json", "tables/captions/*"] :
      "arn:aws:s3:::emoji-ldm-123456789012-store/store/${key}"
    ]
    error_message = "rights of caption"
  }
  assert {
    condition = contains(
      one([for s in jsondecode(output.store.caption).Statement : s.Resource if s.Sid == "Read"]),
      "arn:aws:s3:::emoji-ldm-123456789012-store/store/tables/images/*"
    )
    error_message = "rights of caption"
  }
}

run "nobody_may_delete_rows_or_names" {
  command = plan
  assert {
    condition = alltrue(flatten([
      for policy in values(output.store) : [
        for s in jsondecode(policy).Statement : [
          for key in flatten([s.Resource]) : !strcontains(key, "tables/") && !strcontains(key, "/refs/")
        ] if s.Sid == "Delete"
      ]
    ]))
    error_message = "a job deletes no row, tag or branch"
  }
}

run "everybody_may_try_a_write_before_any_work" {
  command = plan
  assert {
    condition = alltrue([
      for policy in values(output.store) : contains(
        one([for s in jsondecode(policy).Statement : s.Resource if s.Sid == "Delete"]),
        "arn:aws:s3:::emoji-ldm-123456789012-store/store/.write-check-*"
      )
    ])
    error_message = "Store.check_writable writes and deletes .write-check-*"
  }
}

run "the_service_sees_no_table" {
  command = plan
  assert {
    condition     = !strcontains(output.store.serve, "tables/") && strcontains(output.store.serve, "store/sets/*")
    error_message = "rights of serve"
  }
}

run "training_may_make_the_folders_of_ray_s_path_and_captions_may_not" {
  command = plan
  assert {
    condition = { for stage in ["autoencoder", "caption", "train"] : stage => contains(
      one([for s in jsondecode(output.store[stage]).Statement : s.Resource if s.Sid == "Write"]), "arn:aws:s3:::emoji-ldm-123456789012-store/store/"
    ) } == { autoencoder = true, caption = false, train = true }
    error_message = "pyarrow puts an empty object STORE/ when Ray Train makes its folder"
  }
}

run "the_pipeline_may_what_its_stages_may" {
  command = plan
  assert {
    condition = alltrue(flatten([
      for stage in ["crawl", "caption", "autoencoder", "latents", "train", "generate", "report"] : [
        for s in jsondecode(output.store[stage]).Statement : length(setsubtract(
          [for key in flatten([s.Resource]) : key if !strcontains(key, "/logs/")], # logs are written per account, which is that of the Pod
          flatten([for p in jsondecode(output.store.pipeline).Statement : p.Resource if p.Sid == s.Sid])
        )) == 0
      ]
    ]))
    error_message = "a stage may what the pipeline may not"
  }
}

run "every_action_is_named_and_bound_to_a_place" {
  command = plan
  assert {
    condition = alltrue(flatten([
      for policy in concat(values(output.store), values(output.karpenter)) : [
        for s in jsondecode(policy).Statement : [for action in s.Action : !strcontains(action, "*")]
      ]
    ]))
    error_message = "an action with *"
  }
  assert {
    condition = toset(flatten([
      for policy in concat(values(output.store), values(output.karpenter)) : [for s in jsondecode(policy).Statement : s.Sid if s.Resource == "*"]
    ])) == toset(["ListProfiles", "Look", "Prices"])
    error_message = "only what knows no narrower resource may say *"
  }
}

run "documents_are_as_short_as_iam_wants" {
  command = plan
  assert {
    condition     = alltrue([for policy in values(output.karpenter) : length(policy) <= 6144])
    error_message = "a managed policy has at most 6,144 characters"
  }
  assert {
    condition     = alltrue([for policy in values(output.store) : length(policy) <= 10240])
    error_message = "the inline policies of a role have at most 10,240 characters"
  }
}

run "a_role_is_for_pods_of_its_own_account_in_this_cluster" {
  command = plan
  assert {
    condition = (
      jsondecode(output.pod_trust["emoji-ldm/train"]).Statement[0].Principal == { Service = "pods.eks.amazonaws.com" } &&
      jsondecode(output.pod_trust["emoji-ldm/train"]).Statement[0].Condition.StringEquals == {
        "aws:RequestTag/eks-cluster-arn"            = "arn:aws:eks:eu-central-1:123456789012:cluster/emoji-ldm"
        "aws:RequestTag/kubernetes-namespace"       = "emoji-ldm"
        "aws:RequestTag/kubernetes-service-account" = "train"
      }
    )
    error_message = output.pod_trust["emoji-ldm/train"]
  }
  assert {
    condition     = length(setsubtract([for name in keys(output.store) : "emoji-ldm/${name}"], keys(output.pod_trust))) == 0
    error_message = "each account with rights has a role"
  }
}

run "the_bucket_refuses_plain_http_and_foreign_keys" {
  command = plan
  assert {
    condition = (
      [for s in jsondecode(output.bucket).Statement : s.Effect] == ["Deny", "Deny", "Deny"] &&
      jsondecode(output.bucket).Statement[0].Condition == { Bool = { "aws:SecureTransport" = "false" } } &&
      jsondecode(output.bucket).Statement[2].Condition.Null == { "s3:x-amz-server-side-encryption-aws-kms-key-id" = "false" }
    )
    error_message = output.bucket
  }
}

run "a_folder_with_a_wildcard_is_refused" {
  command = plan
  variables {
    store_folder = "*"
  }
  expect_failures = [var.store_folder]
}

run "a_bucket_in_place_of_a_key_is_refused" {
  command = plan
  variables {
    store_key_arn = "arn:aws:s3:::bucket"
  }
  expect_failures = [var.store_key_arn]
}
