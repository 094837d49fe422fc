output "queue" {
  description = "Name of the queue, for settings.interruptionQueue of the chart."
  value       = aws_sqs_queue.interruptions.name
}

output "role_arn" {
  description = "Karpenter's role."
  value       = aws_iam_role.controller.arn
}
