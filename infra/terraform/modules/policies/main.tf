# Who may do what, as JSON documents of IAM. The module uses no provider, so it is tested offline.
terraform {
  required_version = ">= 1.11.0, < 2.0.0"
}

locals {
  data  = yamldecode(file("${path.module}/accounts.yaml"))
  kinds = ["read", "write", "delete"]

  # Account -> the accounts whose rights it has, itself first.
  like = { for name, account in local.data.accounts : name => concat([name], try(account.like, [])) }

  # Account -> kind of right -> patterns of keys below the store. The name of a table becomes its folders: the table itself
  # and its copies on branches.
  patterns = {
    for name, sources in local.like : name => {
      for kind in local.kinds : kind => sort(distinct(flatten([
        for word in concat(try(local.data.everyone[kind], []), flatten([for source in sources : try(local.data.accounts[source][kind], [])])) :
        contains(local.data.tables, word) ? ["tables/${word}/*", "branches/*/tables/${word}/*"] : [replace(word, "ACCOUNT", name)]
      ])))
    }
  }

  bucket = "arn:${var.partition}:s3:::${var.bucket}"
  below  = "${local.bucket}/${var.store_folder}"
  arns = {
    for name, kinds in local.patterns : name => { for kind, patterns in kinds : kind => [for pattern in patterns : "${local.below}/${pattern}"] }
  }

  store = {
    for name, arns in local.arns : name => jsonencode({
      Version = "2012-10-17"
      Statement = [
        {
          Sid    = "List"
          Effect = "Allow"
          Action = ["s3:GetBucketLocation", "s3:ListBucket"]
          # The whole bucket rather than a prefix: if the caller may not list, S3 answers 403 instead of 404 even to a GET
          # of one missing key, and the store often asks for keys that do not exist (emoji_ldm/store.py, exists).
          Resource = [local.bucket]
        },
        {
          Sid      = "Read"
          Effect   = "Allow"
          Action   = ["s3:GetObject"]
          Resource = sort(distinct(concat(arns.read, arns.write, arns.delete)))
        },
        {
          Sid      = "Write"
          Effect   = "Allow"
          Action   = ["s3:AbortMultipartUpload", "s3:PutObject"]
          Resource = sort(distinct(concat(arns.write, arns.delete)))
        },
        {
          Sid      = "Delete"
          Effect   = "Allow"
          Action   = ["s3:DeleteObject"]
          Resource = arns.delete
        },
        {
          Sid       = "Key"
          Effect    = "Allow"
          Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
          Resource  = [var.store_key_arn]
          Condition = { StringEquals = { "kms:ViaService" = "s3.${var.region}.amazonaws.com" } }
        },
      ]
    })
  }
}
